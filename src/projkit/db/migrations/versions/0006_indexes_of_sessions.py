"""Let lists of sessions read the newest ones only, and the cleanup those that have been idle for too long."""

from projkit.db.migrations.steps import CreateIndex, DropIndex, Step

revision = "0006"
down_revision = "0005"
compatible_from = "0004"
branch_labels = None
depends_on = None


def steps(prefix: str) -> list[Step]:
    table = f"{prefix}sessions"
    # The index on expires_at remains for the previous release, whose logins delete expired sessions.
    return [
        CreateIndex(f"ix_{table}_subject_created_at", table, ("tenant_id", "subject", "created_at")),
        CreateIndex(f"ix_{table}_idle_expires_at", table, ("idle_expires_at",)),
        DropIndex(f"ix_{table}_subject"),
    ]
