"""Builds the feature."""

from __future__ import annotations

from datetime import timedelta
from typing import Final

from spotplane.v1 import notification_pb2_grpc

from spotplane_server.kernel.jobs.retention import Rule
from spotplane_server.kernel.module import AppContext, FeatureModule
from spotplane_server.notifications.jobs import NotificationsJob, PriceAlertsJob
from spotplane_server.notifications.mail import MailJob, MailServer
from spotplane_server.notifications.service import NotificationService

# What nobody has read stays; letters are tried for a day, so that older ones are of no use.
RETENTION: Final = (
    Rule("notifications", "read_at", timedelta(days=30)),
    Rule("emails", "created_at", timedelta(days=30)),
)


def assemble(kernel: AppContext) -> FeatureModule:
    """Build the feature's service and jobs; letters are sent where a mail server is set."""
    url, sender = kernel.config.smtp_url, kernel.config.smtp_sender
    mail = [MailJob(kernel.db, MailServer.parse(url, sender))] if url else []
    return FeatureModule(
        services=[
            (
                notification_pb2_grpc.add_NotificationServiceServicer_to_server,
                NotificationService(kernel.db, kernel.clock, kernel.tokens),
            )
        ],
        jobs=[
            NotificationsJob(kernel.db),
            PriceAlertsJob(kernel.db, by_mail=bool(mail)),
            *mail,
        ],
        retention=RETENTION,
    )
