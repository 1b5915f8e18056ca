"""Log lines as ztunnel writes them, and the record of one connection (embedded provider alone).

Text: `time<TAB>level<TAB>target<TAB>message<TAB>key=value ...`; with LOG_FORMAT=json one object per line
with the keys level, time, scope, message and the fields. Access lines have the target `access`; the loggers of
the rest are named as upstream's modules, with dots.
"""

from __future__ import annotations

import datetime
import json
import logging
import sys
import time

from .metrics import UNKNOWN, DerivedSource, Flag, Metrics, traffic_labels
from .model import IP, Service, Workload
from .routing import show

access = logging.getLogger("access")
_LEVELS = {"CRITICAL": "error", "ERROR": "error", "WARNING": "warn", "INFO": "info", "DEBUG": "debug"}
_BY_NAME = {"error": 40, "warn": 30, "info": 20, "debug": 10, "trace": 10, "off": 100}
_levels: dict[str, str] = {}  # target ("": all) -> level
_OWN_TARGETS = {"access", "dns"}
# Addresses and numbers are written bare, names in quotes, as Rust's tracing does.
_BARE = {"src.addr", "dst.addr", "dst.hbone_addr", "bytes_sent", "bytes_recv", "size", "removes", "endpoints"}


class Formatter(logging.Formatter):
    """One line per record."""

    def __init__(self, as_json: bool) -> None:
        super().__init__()
        self._json = as_json

    def format(self, record: logging.LogRecord) -> str:
        """Render a record; `extra={"fields": {...}}` gives its fields."""
        moment = datetime.datetime.fromtimestamp(record.created, datetime.UTC)
        stamp = moment.isoformat(timespec="microseconds").replace("+00:00", "Z")
        level = _LEVELS.get(record.levelname, "info")
        scope = record.name.replace(".", "::")
        if self._json and record.name not in _OWN_TARGETS:
            scope = f"ztunnel::{scope}"  # the text form leaves the crate out (upstream's src/telemetry.rs)
        message = record.getMessage()
        if record.exc_info:
            message += " " + self.formatException(record.exc_info).replace("\n", "\\n")
        fields: dict[str, object] = getattr(record, "fields", {})
        if self._json:
            said = {"message": message} if message else {}
            return json.dumps({"level": level, "time": stamp, "scope": scope, **said, **fields})
        shown = " ".join(f"{key}={_show(key, value)}" for key, value in fields.items())
        return "\t".join(filter(None, (stamp, level, scope, message, shown)))


def _show(key: str, value: object) -> str:
    return str(value) if key in _BARE else json.encoder.encode_basestring(str(value))


def setup_logging(level: str, as_json: bool) -> None:
    """Log to stdout, as upstream does. `level` is RUST_LOG: `level` or `target=level`, with commas."""
    # Nobody reads these of a record, and they are looked up for each (logging HOWTO, "Optimization").
    logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False
    logging._srcfile = None  # the same HOWTO: no caller is looked for
    handler = logging.StreamHandler(sys.stdout)
    handler.setFormatter(Formatter(as_json))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    set_level(level, reset=True)


def set_level(levels: str, *, reset: bool = False) -> None:
    """Add levels to those that hold, or take their place; raises ValueError for an unknown level."""
    wanted = {"": "info"} if reset else {}
    for part in filter(None, (part.strip() for part in levels.split(","))):
        target, _, value = part.rpartition("=")
        if value not in _BY_NAME:
            raise ValueError(f"level {value} is invalid")
        wanted[target] = value
    if reset:
        for target in _levels:
            _logger(target).setLevel(logging.NOTSET)
        _levels.clear()
    _levels.update(wanted)
    for target in sorted(_levels, key=len):
        _logger(target).setLevel(_BY_NAME[_levels[target]])
    # hpack and asyncio would log every frame and every callback.
    for noisy in ("hpack", "asyncio", "grpc"):
        logging.getLogger(noisy).setLevel(max(30, logging.getLogger().level))


def current_levels() -> str:
    """What set_level has set, in its form; the longest target first, as Rust's tracing prints it."""
    targets = sorted(_levels, key=len, reverse=True)
    return ",".join(f"{target}={_levels[target]}" if target else _levels[target] for target in targets)


def _logger(target: str) -> logging.Logger:
    return logging.getLogger("" if target == "ztunnel" else target.removeprefix("ztunnel::").replace("::", "."))


def log_early_deny(src: tuple[IP, int], dst: tuple[IP, int], direction: str, error: object) -> None:
    """A connection that ended before its source and destination were known."""
    fields = {"src.addr": show(*src), "dst.addr": show(*dst), "direction": direction, "error": str(error)}
    access.warning("connection failed", extra={"fields": fields})


class ConnectionRecord:
    """Counts the bytes of one connection and writes its metrics and its access line, once."""

    def __init__(
        self,
        metrics: Metrics,
        *,
        reporter: str,
        src: tuple[IP, int],
        dst: tuple[IP, int],
        hbone_target: str | None,
        mutual_tls: bool,
        source: Workload | None,
        derived: DerivedSource | None,
        destination: Workload | None,
        service: Service | None,
    ) -> None:
        self._metrics = metrics
        self._reporter = reporter
        self._started = time.monotonic()
        self._request_bytes = 0
        self._response_bytes = 0
        self._recorded = False
        self._labels = labels = traffic_labels(
            reporter=reporter,
            mutual_tls=mutual_tls,
            source=source,
            derived=derived,
            destination=destination,
            service=service,
        )

        def known(label: str) -> str | None:
            return labels[label] if labels[label] != UNKNOWN else None

        self._fields: dict[str, object] = {
            "src.addr": show(*src),
            "src.workload": source.name if source else known("source_canonical_service"),
            "src.namespace": known("source_workload_namespace"),
            "src.identity": known("source_principal") if mutual_tls else None,
            "src.cluster": known("source_cluster"),
            "dst.addr": show(*dst),
            "dst.hbone_addr": hbone_target,
            "dst.service": known("destination_service"),
            "dst.workload": destination.name if destination else None,
            "dst.namespace": known("destination_workload_namespace"),
            "dst.identity": known("destination_principal") if mutual_tls else None,
            "dst.cluster": known("destination_cluster"),
            "direction": "outbound" if reporter == "source" else "inbound",
        }
        self._fields = {key: value for key, value in self._fields.items() if value is not None}
        metrics.traffic("opened", labels).inc()
        access.debug("connection opened", extra={"fields": self._fields})
        self._request_metric = metrics.traffic("received", labels)
        self._response_metric = metrics.traffic("sent", labels)

    def add_request(self, size: int) -> None:
        """Bytes from the client towards the server."""
        self._request_bytes += size
        self._request_metric.inc(size)

    def add_response(self, size: int) -> None:
        """Bytes from the server back to the client."""
        self._response_bytes += size
        self._response_metric.inc(size)

    def finish(self, error: Exception | None = None) -> None:
        """Write the metrics and the line; only the first call counts.

        An error's `flag` says why the connection failed; without one it is CONNECT (upstream's
        src/proxy/metrics.rs, extract_failure_reason).
        """
        if self._recorded:
            return
        self._recorded = True
        flag = getattr(error, "flag", Flag.CONNECT) if error else Flag.NONE
        self._metrics.traffic("closed", self._labels, flag).inc()
        if flag != Flag.NONE:
            self._metrics.traffic("failed", self._labels, flag).inc()
        outbound = self._reporter == "source"
        fields = {
            **self._fields,
            "bytes_sent": self._request_bytes if outbound else self._response_bytes,
            "bytes_recv": self._response_bytes if outbound else self._request_bytes,
            "duration": f"{int((time.monotonic() - self._started) * 1000)}ms",
        }
        if error is None:
            access.info("connection complete", extra={"fields": fields})
        else:
            access.error("connection complete", extra={"fields": {**fields, "error": str(error)}})
