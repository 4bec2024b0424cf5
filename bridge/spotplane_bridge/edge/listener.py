"""The one public listener: connection manager, filters, local replies."""

from __future__ import annotations

from dataclasses import replace
from importlib.resources import files
from typing import Final

from spotplane_bridge.edge import descriptors, errors
from spotplane_bridge.edge.clusters import BUFFER_BYTES, HTTP2_WINDOWS, socket_address, type_url
from spotplane_bridge.edge.config import EdgeConfig
from spotplane_bridge.edge.connections import filter_chains
from spotplane_bridge.edge.routes import (
    BUFFER,
    CLIENT_ID,
    CORS,
    EDGE_ID,
    HEADERS,
    LUA,
    SECURITY_HEADERS,
    STREAM_IDLE,
    TRANSCODER,
    header_options,
    path_variables,
    set_header,
    virtual_host,
)

INTERNAL_PREFIX: Final = "x-spotplane-"
METADATA: Final = "spotplane.edge"
_CHOSEN_ID: Final = "x-spotplane-chosen-id"
_ID: Final = "request.headers['{0}']"
# Envoy rejects a CEL regular expression with a repetition of 128: its program would be too large.
_VALID: Final = "{0}.matches('^[A-Za-z0-9._-]+$') && size({0}) <= 128"


def listener(config: EdgeConfig, descriptor_file: str) -> dict[str, object]:
    """Return the listener with its filter chains."""
    chain: dict[str, object] = {
        "filters": [
            {
                "name": "envoy.filters.network.http_connection_manager",
                "typed_config": _connection_manager(config, descriptor_file),
            },
        ]
    }
    if config.tls_cert_file is not None:
        chain["transport_socket"] = _tls(config.tls_cert_file, str(config.tls_key_file))
    return {
        "name": "edge",
        "address": socket_address(config.listen),
        "per_connection_buffer_limit_bytes": BUFFER_BYTES,
        # With port reuse, two Envoys would share the port silently, each with half of the
        # connections. Without it the second one does not start; the workers then share one socket,
        # and are balanced here.
        "enable_reuse_port": False,
        "connection_balance_config": {"exact_balance": {}},
        **filter_chains(config, chain),
    }


def _connection_manager(config: EdgeConfig, descriptor_file: str) -> dict[str, object]:
    return {
        "@type": type_url(
            "envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager"
        ),
        "stat_prefix": "edge",
        "codec_type": "AUTO",
        "server_name": "spotplane",
        **_trust(config),
        **_limits(),
        **_paths(),
        **_request_id(),
        "access_log": [_access_log()],
        "local_reply_config": {
            "mappers": [
                *(_local_reply(error) for error in errors.EDGE_ERRORS if error.outside),
                _unsent_reply(),
            ]
        },
        "route_config": {"name": "edge", "virtual_hosts": [virtual_host(config)]},
        "http_filters": _http_filters(config, descriptor_file),
    }


def _trust(config: EdgeConfig) -> dict[str, object]:
    """Return the settings for trusting proxies' `X-Forwarded-For`."""
    return {
        "use_remote_address": True,
        "xff_num_trusted_hops": config.trusted_hops,
    }


def _limits() -> dict[str, object]:
    return {
        "request_headers_timeout": "10s",
        # This timeout ends when the response begins, so it does not affect an agent's stream; but a
        # stream of usage records has its response at the end. Routes have shorter limits, and the
        # bridge has its own.
        "request_timeout": "3600s",
        "stream_idle_timeout": STREAM_IDLE,
        "max_request_headers_kb": 32,
        "common_http_protocol_options": {
            # For connections without a request.
            "idle_timeout": "300s",
            "max_headers_count": 100,
            "headers_with_underscores_action": "REJECT_REQUEST",
        },
        "http2_protocol_options": {
            "max_concurrent_streams": 100,
            **HTTP2_WINDOWS,
            # Detects agents that vanished without closing their connection.
            "connection_keepalive": {"interval": "60s", "timeout": "20s"},
        },
    }


def _paths() -> dict[str, object]:
    return {
        "normalize_path": True,
        # The bridge does not merge slashes either: such a path is unknown.
        "merge_slashes": False,
        # A model's name may contain an escaped slash, which is not a separator.
        "path_with_escaped_slashes_action": "KEEP_UNCHANGED",
    }


def _request_id() -> dict[str, object]:
    """Keep a well-formed id of the client, else generate a UUID; return it in the response.

    An early mutation moves an acceptable id into place; without one, the connection manager
    generates it. X-Correlation-ID is a synonym; X-Request-ID has precedence.
    """
    return {
        "generate_request_id": True,
        "preserve_external_request_id": True,
        "always_set_request_id_in_response": True,
        "request_id_extension": {
            "typed_config": {
                "@type": type_url("envoy.extensions.request_id.uuid.v3.UuidRequestIdConfig"),
                # Envoy would otherwise write the trace decision into a client's UUID.
                "pack_trace_reason": False,
            }
        },
        "early_header_mutation_extensions": [
            {
                "name": "envoy.http.early_header_mutation.header_mutation",
                "typed_config": {
                    "@type": type_url(
                        "envoy.extensions.http.early_header_mutation.header_mutation.v3"
                        ".HeaderMutation"
                    ),
                    "mutations": _id_mutations(),
                },
            }
        ],
    }


def _id_mutations() -> list[dict[str, object]]:
    sent, synonym = _ID.format("x-request-id"), _ID.format("x-correlation-id")
    good = f"'x-request-id' in request.headers && {_VALID.format(sent)}"
    good_synonym = f"'x-correlation-id' in request.headers && {_VALID.format(synonym)}"
    chosen = f"{good} ? {sent} : {good_synonym} ? {synonym} : ''"
    return [
        # Headers between our own processes, whose values a caller must not choose.
        {"remove_on_match": {"key_matcher": {"prefix": INTERNAL_PREFIX, "ignore_case": True}}},
        {"remove": EDGE_ID},
        set_header(CLIENT_ID, f"%CEL({good} ? {sent} : '')%"),
        set_header(_CHOSEN_ID, f"%CEL({chosen})%"),
        {"remove": "x-request-id"},
        set_header("x-request-id", f"%REQ({_CHOSEN_ID})%"),
        {"remove": _CHOSEN_ID},
    ]


def _http_filters(config: EdgeConfig, descriptor_file: str) -> list[dict[str, object]]:
    return [
        {"name": HEADERS, "typed_config": _answer_headers()},
        {
            "name": CORS,
            "typed_config": {"@type": type_url("envoy.extensions.filters.http.cors.v3.Cors")},
        },
        {
            "name": LUA,
            "disabled": True,
            "typed_config": {
                "@type": type_url("envoy.extensions.filters.http.lua.v3.Lua"),
                "default_source_code": {"inline_string": _script()},
            },
        },
        {
            "name": BUFFER,
            "disabled": True,
            "typed_config": {
                "@type": type_url("envoy.extensions.filters.http.buffer.v3.Buffer"),
                # Routes have their own limits.
                "max_request_bytes": config.max_body_bytes,
            },
        },
        {
            "name": TRANSCODER,
            "disabled": True,
            "typed_config": _transcoder(config, descriptor_file),
        },
        {
            "name": "envoy.filters.http.router",
            "typed_config": {
                "@type": type_url("envoy.extensions.filters.http.router.v3.Router"),
                "suppress_envoy_headers": True,
            },
        },
    ]


def _script() -> str:
    """Return the Lua filter, with its tables from the descriptors and the error table."""
    script = (files("spotplane_bridge.edge") / "edge.lua").read_text(encoding="utf-8")
    variables = [
        f'  {{ "{pattern}", {{ {", ".join(f"{name} = true" for name in names)} }} }},'
        for pattern, names in path_variables()
    ]
    return script.replace("@ERRORS@", errors.lua_table()).replace(
        "@VARIABLES@", "\n".join(["{", *variables, "}"])
    )


def _answer_headers() -> dict[str, object]:
    """Set the headers of every REST response; listed first, so that it runs last on responses."""
    mutations = [set_header(key, value) for key, value in SECURITY_HEADERS.items()]
    return {
        "@type": type_url("envoy.extensions.filters.http.header_mutation.v3.HeaderMutation"),
        "mutations": {"response_mutations": mutations},
    }


def _transcoder(config: EdgeConfig, descriptor_file: str) -> dict[str, object]:
    return {
        "@type": type_url(
            "envoy.extensions.filters.http.grpc_json_transcoder.v3.GrpcJsonTranscoder"
        ),
        "proto_descriptor": descriptor_file,
        "services": descriptors.annotated_services(),
        "convert_grpc_status": True,
        "match_incoming_request_route": True,
        "url_unescape_spec": "ALL_CHARACTERS",
        "query_param_unescape_plus": True,
        "print_options": {
            "preserve_proto_field_names": True,
            "always_print_primitive_fields": True,
        },
        "request_validation_options": {
            "reject_unknown_method": True,
            "reject_unknown_query_parameters": True,
            # Without it a body's member silently replaces the path's variable of the same name.
            "reject_binding_body_field_collisions": True,
        },
        # Both raise the stream's buffer above the connection's 32 KiB, where needed.
        "max_request_body_size": config.max_body_bytes,
        "max_response_body_size": config.max_response_bytes,
    }


def _local_reply(error: errors.EdgeError) -> dict[str, object]:
    """Format Envoy's own responses as error objects, except those of gRPC or the Lua filter."""
    added = {**SECURITY_HEADERS, "x-request-id": errors.REQUEST_ID}
    if error.status == 503:
        added["retry-after"] = "1"
    return {
        "filter": {
            "and_filter": {
                "filters": [
                    _status_filter(error.status),
                    _not_grpc_filter(),
                    _not_transcoded_filter(),
                ]
            }
        },
        "headers_to_add": header_options(added),
        "body_format_override": {
            "json_format": errors.json_format(error),
            "content_type": "application/json",
        },
    }


def _unsent_reply() -> dict[str, object]:
    """Return 503 instead of 507, Envoy's status for a body too large to be buffered for a retry."""
    unavailable = next(error for error in errors.EDGE_ERRORS if error.status == 503)
    reply = _local_reply(replace(unavailable, status=507))
    return {
        **reply,
        "status_code": 503,
        "headers_to_add": _local_reply(unavailable)["headers_to_add"],
        "body_format_override": _local_reply(unavailable)["body_format_override"],
    }


def _status_filter(status: int) -> dict[str, object]:
    value = {"default_value": status, "runtime_key": f"edge.local_reply.{status}"}
    return {"status_code_filter": {"comparison": {"op": "EQ", "value": value}}}


def _not_grpc_filter() -> dict[str, object]:
    header = {
        "name": "content-type",
        "string_match": {"prefix": "application/grpc"},
        "invert_match": True,
        "treat_missing_header_as_empty": True,
    }
    return {"header_filter": {"header": header}}


def _not_transcoded_filter() -> dict[str, object]:
    # The matcher ignores its own `invert` here.
    matcher = {
        "filter": METADATA,
        "path": [{"key": "transcoded"}],
        "value": {"bool_match": False},
    }
    return {"metadata_filter": {"matcher": matcher, "match_if_key_not_found": True}}


def _access_log() -> dict[str, object]:
    """Log one JSON line per request, without query, credentials and bodies."""
    return {
        "name": "envoy.access_loggers.stdout",
        "typed_config": {
            "@type": type_url("envoy.extensions.access_loggers.stream.v3.StdoutAccessLog"),
            "log_format": {
                "json_format": {
                    "time": "%START_TIME%",
                    "request_id": errors.REQUEST_ID,
                    "correlation_id": "%RESP(X-CORRELATION-ID?X-REQUEST-ID)%",
                    "method": "%REQ(X-ENVOY-ORIGINAL-METHOD?:METHOD)%",
                    "path": "%PATH(NQ:ORIG_OR_PATH)%",
                    "protocol": "%PROTOCOL%",
                    "route": "%ROUTE_NAME%",
                    "status": "%RESPONSE_CODE%",
                    "grpc_status": "%GRPC_STATUS(SNAKE_STRING)%",
                    "flags": "%RESPONSE_FLAGS%",
                    "details": "%RESPONSE_CODE_DETAILS%",
                    "duration_ms": "%DURATION%",
                    "received_bytes": "%BYTES_RECEIVED%",
                    "sent_bytes": "%BYTES_SENT%",
                    "client_ip": "%DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT%",
                    "upstream": "%UPSTREAM_CLUSTER%",
                }
            },
        },
    }


def _tls(cert_file: str, key_file: str) -> dict[str, object]:
    return {
        "name": "envoy.transport_sockets.tls",
        "typed_config": {
            "@type": type_url("envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext"),
            "common_tls_context": {
                "alpn_protocols": ["h2", "http/1.1"],
                "tls_params": {"tls_minimum_protocol_version": "TLSv1_2"},
                "tls_certificates": [
                    {
                        "certificate_chain": {"filename": cert_file},
                        "private_key": {"filename": key_file},
                    }
                ],
            },
        },
    }
