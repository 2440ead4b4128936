"""Log events: a stable name for each kind of log line, and the names of the values in it. Pure.

A line's kind is its template, as it stands in the call. The table is for ``log_format`` json alone, and is
loaded only then. A test keeps it complete: each call of the package has its row here, and each row its call.
"""

# What standard error gets that is no log line: a traceback, what a library prints, a dump of the stacks.
OUTPUT = "output"
# What an operator has done: see :mod:`mpchat.ipc.audit`.
AUDIT = "audit"
# A template without a row, as a package beside this one may log.
OTHER = "other"

# The fields that a line of any event can have.
COMMON = ("time", "level", "process", "event", "text", "repeated", "stack")

# The event's name by the template, then the names of the template's values in their order.
EVENTS: dict[str, tuple[str, ...]] = {
    # The server's life.
    "ready: %s at %s": ("server_ready", "workers", "addresses"),
    "stopping: %s": ("server_stopping", "reason"),
    "asked again, quick now: %s": ("server_hurried", "reason"),
    "stopped after %.1f s: %s": ("server_stopped", "uptime", "name"),
    "guarded by the lock file alone, another user or container has the kernel's name": ("lock_file_alone",),
    "its terminal was closed, serving on: SIGHUP was ignored at the start": ("terminal_closed",),
    "ignored, the server is just starting: signal %s": ("signal_ignored", "signal"),
    "passed on to the workers: signal %s": ("signal_passed_on", "signal"),
    "lock file was gone or replaced, taken again: %s": ("lock_file_restored", "path"),
    "record not written: %s: %s": ("record_not_written", "error", "path"),
    "a command was not answered: %s": ("command_not_answered", "error"),
    "failed: command %s": ("command_failed", "command"),
    "memory: %s": ("memory_short", "warning"),
    # The service manager.
    "the service manager has opened the sockets: %s": ("sockets_given", "addresses"),
    "service manager not told: %s: %s": ("service_manager_not_told", "error", "path"),
    "service manager told again, after %d messages that it did not get": (
        "service_manager_told_again",
        "messages",
    ),
    # The log itself.
    "log file was gone or replaced, opened again: %s": ("log_file_restored", "path"),
    "log not opened anew: %s: %s": ("log_not_opened", "error", "path"),
    "%d log line was dropped: the log could not be written": ("log_lines_dropped", "lines"),
    "%d log lines were dropped: the log could not be written": ("log_lines_dropped", "lines"),
    "stacks that signal SIGUSR2 asks for": ("stacks",),
    # Processes.
    "ready: worker %d": ("worker_ready", "pid"),
    "ready: %s": ("tls_process_ready", "child"),
    "not started, %s, next try in %g s: %s": ("process_not_started", "error", "pause", "child"),
    "not ready within %g s, killed: %s": ("process_not_ready", "seconds", "child"),
    "died: %s, %s; the next starts in %.2f s": ("process_died", "child", "how", "pause"),
    "dead %d times in a row, tried again for ever, at most %g s apart: %s, %s": (
        "process_keeps_dying",
        *("deaths", "pause", "child", "how"),
    ),
    "died before it took over: %s, %s": ("process_died_before_it_served", "child", "how"),
    "died, the one before it serves again: %s, %s": ("process_died_predecessor_serves", "child", "how"),
    "ended, and had no place: %s, %s": ("process_without_a_place_ended", "child", "how"),
    "ended after it was %s: %s, %s": ("process_replaced", "why", "child", "how"),
    "ended: %s, %s": ("process_ended", "child", "how"),
    "hung for %.1f s, its stacks follow: %s": ("process_hangs", "seconds", "child"),
    "hung for %.1f s, killed: %s": ("process_hung_killed", "seconds", "child"),
    "has not ended in time after it was replaced, killed: worker %d": ("replaced_worker_killed", "slot"),
    "not ended in time, killed: TLS processes": ("tls_processes_killed",),
    "not ended in time, killed: workers %s": ("workers_killed", "slots"),
    "the supervisor is gone: %s ends": ("supervisor_gone", "child"),
    "no way to the supervisor, %s: %s ends": ("supervisor_unreachable", "error", "child"),
    # Reload, scale, rebalance.
    "began: %s": ("change_began", "change"),
    "done in %.2f s, %d moved, %d lost: %s": ("change_done", "seconds", "moved", "lost", "change"),
    "failed after %.2f s, %d moved, %d lost: %s: %s": (
        "change_failed",
        *("seconds", "moved", "lost", "change", "error"),
    ),
    "failed: %s": ("change_broke", "change"),
    "not scaled: %s": ("not_scaled", "error"),
    "short of descriptors: connections are moved in smaller batches": ("move_short_of_descriptors",),
    # Clients.
    "full: %s; a client was refused": ("client_refused_full", "error"),
    "no client comes in for a moment: %s": ("accept_paused", "error"),
    "clients wait, %s: %s": ("clients_wait", "error", "child"),
    "connections wait, %s: %s": ("connections_wait", "error", "child"),
    "refused, %s, and proxy_from names its address: %s": ("proxy_header_refused", "why", "address"),
    "refused, wrong %s: %s, %s": ("proof_refused", "kind", "name", "address"),
    "= joined: %s": ("client_joined", "address"),
    "= ended, %s: %s": ("client_ended", "reason", "address"),
    "ended, %s: %s:%d": ("tls_client_ended", "reason", "host", "port"),
    "> answered: %s": ("client_answered", "address"),
    "kicked: %s": ("client_kicked", "address"),
    "failed, its connection is ended: %s": ("client_failed", "address"),
    "not understood, its connection is ended, %s: %s": ("client_not_understood", "error", "address"),
    "the page cannot be served": ("page_failed",),
    "a page of HTTP could not be made": ("http_page_failed",),
    "failed: %r": ("http_request_failed", "request"),
    "no JSON: %r": ("http_result_unusable", "request"),
    "no answer could be made, the connection is ended: %s": ("http_answer_failed", "address"),
    "the metrics could not be written": ("metrics_failed",),
    # Sign-in and certificates.
    "auth is closed, and nobody can come in: no account, no jwt_key, no secret": ("nobody_can_sign_in",),
    "names cannot be checked: %s": ("names_not_checked", "error"),
    "no proof can be checked: %s": ("proofs_not_checked", "error"),
    "a proof could not be checked": ("proof_failed",),
    "look-alikes of the data of another version are found, %s: %s": ("lookalikes_outdated", "error", "path"),
    "renewal is due: %s": ("certificate_ends", "warning"),
    "certificate not taken, the one before is shown: %s: %s": ("certificate_not_taken", "child", "error"),
    # Moderation and rooms.
    "banned: %s": ("banned", "target"),
    "banned, says the file of bans: %s": ("banned_by_file", "target"),
    "muted: %s": ("muted", "name"),
    "lifted from %s: %s": ("lifted", "what", "target"),
    "room closed, %d members put into the lobby: %s": ("room_closed", "members", "room"),
    "bans and mutes not written: %s": ("bans_not_written", "error"),
    "bans neither read nor written, those of before hold, %s: %s": ("bans_file_unusable", "error", "path"),
    "written again, with all bans and mutes: %s": ("bans_file_restored", "path"),
    "the clock was stepped by %.1f s: bans and mutes end that much later": ("clock_stepped", "seconds"),
    # History.
    "history damaged, %d runs of messages are left out: %s": ("history_damaged", "runs", "path"),
    "history not written, %s: %s": ("history_not_written", "state", "path"),
    "history not written any more: %s": ("history_broke", "path"),
    "history written again, %d messages dropped so far: %s": ("history_written_again", "dropped", "path"),
    "history begun anew, its file was removed: %s": ("history_begun_anew", "path"),
    # The webhook.
    "events not delivered, %s: %s": ("hook_failing", "state", "url"),
    "events delivered again, %d dropped so far: %s": ("hook_works_again", "dropped", "url"),
    "dropped, %d events: %s": ("hook_dropped_events", "events", "url"),
    "not delivered, %d events: %s": ("hook_ended_with_events", "events", "url"),
    "nothing more is sent: %s": ("hook_broke", "url"),
    # Several hosts.
    "takes part as host %s: epoch %d": ("host_joined_cluster", "host", "epoch"),
    "host is there: %s, epoch %d": ("host_appeared", "host", "epoch"),
    "host has left: %s, epoch %d, %d clients": ("host_left", "host", "epoch", "clients"),
    "host gone, its lease is over: %s, epoch %d, %d clients": ("host_gone", "host", "epoch", "clients"),
    "the others took this host for gone; it returns with its members: epoch %d": ("host_returns", "epoch"),
    "this host's lease is over, it will register again: epoch %d": ("lease_lost", "epoch"),
    "limits are those of the cluster %s, a reload sets others": ("cluster_limits_hold", "cluster"),
    "Redis is not reachable, senders wait: %s": ("redis_away", "error"),
    "Redis is reachable again after %.1f s": ("redis_back", "seconds"),
    "the log cannot be followed: %s": ("cluster_log_not_followed", "error"),
    "the log begins anew with the state of this host: %s": ("cluster_log_begun_anew", "generation"),
    "the log cannot be used": ("cluster_log_unusable",),
    "the log cannot be read": ("cluster_log_unreadable",),
    "snapshot not saved: %s": ("snapshot_not_saved", "error"),
    "state differs from that of %s at %d: %s, here %s": (
        "state_differs",
        *("host", "position", "digest", "own_digest"),
    ),
    "failed, left out by all hosts: an entry of host %d": ("entry_left_out", "host"),
    "no host is left that knows whether the log has lost its end: epoch %s begins": (
        "cluster_epoch_begins",
        "epoch",
    ),
}
