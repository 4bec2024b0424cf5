-- Runs on transcoded routes only. Listed before the transcoder, it sees a request before and an
-- answer after the translation, and applies what gRPC cannot say: exact status and error object.

local ERRORS = @ERRORS@

-- Path variables by path, without underscores, for routes that may have a query.
local VARIABLES = @VARIABLES@

local METADATA = "spotplane.edge"
local STRIPPED = {
  "x-spotplane-http-status", "x-spotplane-error",
  "grpc-status", "grpc-message", "grpc-status-details-bin", "grpc-accept-encoding", "trailer",
}

-- Routes of these methods read their request from the body, and nothing from the query.
local READS_BODY = { POST = true, PUT = true, PATCH = true }

local function unescape(text)
  return (string.gsub(text, "%%(%x%x)", function(digits)
    return string.char(tonumber(digits, 16))
  end))
end

-- The first query parameter that the transcoder would take although the route has none of that
-- name: a member of the body, or the path's own variable, which it would silently replace.
local function foreign_parameter(path, reads_body)
  local resource, query = string.match(path, "^([^?]*)%?(.*)$")
  if not query then
    return nil
  end
  if reads_body then
    return string.match(query, "[^=&]+")
  end
  for _, route in ipairs(VARIABLES) do
    if string.match(resource, route[1]) then
      for name in string.gmatch(query, "([^=&]+)=?[^&]*") do
        if route[2][string.lower((string.gsub(unescape(name), "_", "")))] then
          return unescape(name)
        end
      end
    end
  end
  return nil
end

function envoy_on_request(handle)
  local headers = handle:headers()
  local reads_body = READS_BODY[headers:get(":method")] or false
  local has_body = reads_body and headers:get("content-length") ~= "0"
  -- The answer's side cannot read the request's headers.
  local metadata = handle:streamInfo():dynamicMetadata()
  metadata:set(METADATA, "transcoded", true)
  metadata:set(METADATA, "has_body", has_body)
  metadata:set(METADATA, "request_id", headers:get("x-request-id") or "")
  local parameter = foreign_parameter(headers:get(":path"), reads_body)
  local media = headers:get("content-type")
  if parameter then
    handle:respond({ [":status"] = "400" }, 'Could not find field "' .. parameter .. '"')
  elseif media and has_body
      and not string.find(string.lower(media), "application/json", 1, true) then
    handle:respond({ [":status"] = "415" }, "")
  elseif not reads_body and (headers:get("content-length") or "0") ~= "0" then
    -- The transcoder refuses a body where none is read; everybody else ignores it.
    handle:body(true):setBytes("")
    handle:headers():remove("content-length")
  end
end

-- Text is ours or a field's name of our own API; anything else would have to be escaped.
local function safe(text)
  return (string.gsub(text, "[^%w_%.%- ]", "?"))
end

-- The transcoder says in prose what it could not read. Returns code, message and field.
local function refine(text, has_body, known)
  local field = string.match(text, 'Could not find field "([^"]*)"')
  if field then
    return "UNKNOWN_PARAMETER", "unknown query parameter " .. safe(field), field
  end
  field = string.match(text, "conflicting") and string.match(text, "of the field ([%w_%.]+) is")
  if field then
    return "INVALID_FIELD", "the body and the path disagree on " .. field, field
  end
  field = string.match(text, "^([%w_%.]+): invalid value")
  local kind = string.match(text, "for type TYPE_(%w+)")
  if has_body then
    return "INVALID_JSON", "the body cannot be read", field
  elseif field == "id" or (field and string.sub(field, -3) == "_id") then
    return "INVALID_ID", "invalid " .. field, field
  elseif field then
    return (kind == "BOOL" and "UNKNOWN_ENUM" or "OUT_OF_RANGE"), "invalid " .. field, field
  end
  return known.code, known.message, nil
end

local function error_object(handle, status, text)
  local known = ERRORS[status] or ERRORS[status < 500 and 400 or 500]
  local metadata = handle:streamInfo():dynamicMetadata():get(METADATA) or {}
  local code, message, field = known.code, known.message, nil
  if status == 400 then
    code, message, field = refine(text, metadata["has_body"], known)
  end
  local details = ""
  if field then
    details = string.format(
      ',"details":[{"field":"%s","description":"%s"}]', safe(field), message)
  end
  return string.format(
    '{"error":{"message":"%s","type":"%s","code":"%s","category":"%s",'
      .. '"status_code":%d,"correlation_id":"%s"%s}}',
    message, known.type, code, known.category, status, metadata["request_id"] or "", details)
end

-- Waiting for a body invalidates every object taken before, so the headers are asked for anew.
local function replace_body(handle, text)
  local length = handle:body(true):setBytes(text)
  local headers = handle:headers()
  headers:replace("content-length", tostring(length))
  headers:replace("content-type", "application/json")
  if headers:get(":status") == "503" and not headers:get("retry-after") then
    headers:add("retry-after", "1")
  end
end

local function text_of(body)
  return tostring(body:getBytes(0, body:length()))
end

function envoy_on_response(handle)
  local headers = handle:headers()
  local object = headers:get("x-spotplane-error")
  local status = tonumber(headers:get("x-spotplane-http-status") or headers:get(":status"))
  for _, name in ipairs(STRIPPED) do
    headers:remove(name)
  end
  headers:replace(":status", tostring(status))
  if status >= 400 then
    object = object or error_object(handle, status, text_of(handle:body(true)))
    replace_body(handle, object)
  elseif status == 204 then
    handle:body(true):setBytes("")
    handle:headers():remove("content-length")
    handle:headers():remove("content-type")
  end
end
