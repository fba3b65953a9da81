"""A server as its owner has it: started, watched, killed, reloaded and stopped, in processes of its own."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import grpc
import numpy as np
import polars as pl
import pyarrow as pa
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from pyarrow import flight

import mamba_stream as mamba
from mamba_stream.errors import ServerUnavailable
from mamba_stream.log.remote import protocol
from mamba_stream.server.listener import memory_of
from tests.server.running import Serving, alive, children, opened, until
from tests.sizes import crossed

ROWS = pl.DataFrame({"n": [1, 2, 3]})


@pytest.fixture
def start(tmp_path, environment):
    started = []

    def run(*arguments, **settings):
        made = Serving(
            tmp_path / "log", {**environment, **settings.pop("variables", {})}, *arguments, **settings
        )
        started.append(made)
        return made

    yield run
    for each in started:
        each.close()


def numbers(place) -> list[int]:
    with mamba.open(place) as log:
        return log["numbers"].scan().collect()["n"].to_list()


def writing(address):
    """A client, and its stream of rows, which lasts for as long as it likes; the first of them are acknowledged."""
    with mamba.open(address) as log:
        log.create_topic("numbers", ROWS)
    client = flight.FlightClient(f"grpc://{address}")
    batch = pa.record_batch({"n": [1, 2, 3]})
    writer, answers = client.do_put(flight.FlightDescriptor.for_path("numbers"), batch.schema)
    writer.write_batch(batch)
    assert protocol.decode(answers.read(), protocol.Ack).offsets == [{0: (0, 3)}]
    return client, writer


def test_a_server_answers_tells_of_itself_and_ends_in_order(start):
    serving = start()
    until(serving.ready, "readiness")
    with mamba.open(serving.address) as log:
        log.create_topic("numbers", ROWS).append(ROWS)
    assert numbers(serving.address) == [1, 2, 3]
    assert serving.get("/livez") == (200, "ok\n")
    assert serving.get("/nowhere")[0] == 404
    listener = serving.listener()
    assert children(serving.process.pid) == [listener]
    # Whoever decodes what strangers send has no hand in the index.
    assert opened(listener, "data.mdb") == {os.O_RDONLY}
    assert serving.end() == 0
    assert not alive(listener)
    names = [each["event"] for each in serving.events]
    assert names == ["listener started", "server started", "draining", "drained", "server stopped"]
    # What was acknowledged is in the directory.
    assert numbers(serving.place) == [1, 2, 3]


def test_a_killed_listener_comes_back_at_the_same_address_and_no_acknowledged_row_is_lost(start):
    serving = start()
    with mamba.open(serving.address) as log:
        topic = log.create_topic("numbers", ROWS)
        for turn in range(3):
            topic.append(ROWS, producer="p", sequence=turn)
            before = serving.listener()
            os.kill(before, signal.SIGKILL)
            until(lambda before=before: serving.listener() != before, "another listener")
            assert not alive(before)
        # The client finds the new one by itself.
        topic.append(ROWS, producer="p", sequence=3)
    assert numbers(serving.address) == [1, 2, 3] * 4
    ends = serving.named("listener ended")
    assert [(each["cause"], each["exit"]) for each in ends] == [("died", "SIGKILL")] * 3
    assert serving.figures()['mamba_stream_listener_restarts_total{reason="died"}'] == 3
    until(serving.ready, "readiness")


def test_nobody_takes_the_address_while_there_is_no_listener(start):
    serving = start()
    before = serving.listener()
    serving.send(signal.SIGSTOP)  # it would be faster
    os.kill(before, signal.SIGKILL)
    until(lambda: not alive(before), "the listener's end")
    for family, host in ((socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")):
        with socket.socket(family) as other, pytest.raises(OSError, match="in use"):
            other.bind((host, serving.port))
    serving.send(signal.SIGCONT)
    until(lambda: serving.listener() != before, "another listener")
    for host in ("127.0.0.1", "::1"):
        socket.create_connection((host, serving.port)).close()


def test_a_stopped_listener_is_not_ready_and_ready_again_when_it_goes_on(start):
    serving = start()
    until(serving.ready, "readiness")
    os.kill(serving.listener(), signal.SIGSTOP)
    until(lambda: not serving.ready(), "the end of readiness")
    assert "listener does not answer" in serving.get("/readyz")[1]
    os.kill(serving.listener(), signal.SIGCONT)
    until(serving.ready, "readiness")


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
def test_a_listener_does_not_outlive_its_server(start, number):
    serving = start()
    listener = serving.listener()
    if number == signal.SIGSTOP:
        # One that cannot look whether somebody is there dies as well.
        os.kill(listener, signal.SIGSTOP)
    serving.process.kill()
    serving.process.wait()
    until(lambda: not alive(listener), "the listener's end")


def test_calls_in_flight_finish_while_new_ones_are_refused_and_waits_end(start):
    serving = start("--drain", "600s")
    until(serving.ready, "readiness")
    client, writer = writing(serving.address)
    waited = []

    def wait():
        ask = protocol.encode(protocol.AskWait(lsn=1 << 40, timeout=60.0))
        waited.extend(client.do_action(flight.Action("wait", ask)))

    waiting = threading.Thread(target=wait)
    waiting.start()
    until(lambda: serving.figures()["mamba_stream_calls_active"] == 2, "both calls")
    serving.send(signal.SIGTERM)
    until(lambda: not serving.ready(), "the end of readiness")
    # It waits for a commit that never comes, and is answered.
    waiting.join(50)
    assert len(waited) == 1
    with pytest.raises(flight.FlightUnavailableError) as refused:
        list(flight.FlightClient(f"grpc://{serving.address}").do_action(flight.Action("lsn", b"")))
    failure = protocol.decode(refused.value.extra_info, protocol.Failure)
    assert (failure.code, failure.retriable) == ("ServerUnavailable", True)
    # As long as the writer has not ended its stream the server is there, and no longer.
    assert serving.process.poll() is None
    writer.close()
    assert serving.process.wait(60) == 0
    serving.end()
    assert serving.named("drained")[0]["cut"] == 0
    assert numbers(serving.place) == [1, 2, 3]


def test_a_call_that_takes_longer_than_the_drain_is_cut_off(start):
    serving = start("--drain", "200ms")
    _client, _writer = writing(serving.address)
    assert serving.end() == 0
    assert serving.named("drained")[0]["cut"] == 1
    assert numbers(serving.place) == [1, 2, 3]


def test_a_second_signal_does_not_wait(start):
    serving = start("--drain", "600s")
    _client, _writer = writing(serving.address)
    listener = serving.listener()
    serving.send(signal.SIGTERM)
    until(lambda: serving.named("draining"), "the drain")
    assert serving.end(signal.SIGINT) == 128 + signal.SIGINT
    assert not alive(listener)


def test_a_listener_that_takes_too_much_memory_is_replaced_and_the_server_stays(start):
    serving = start("--memory", "256MiB")
    until(serving.ready, "readiness")
    first = serving.listener()
    with mamba.open(serving.address) as log:
        log.create_topic("numbers", {"n": pl.Float64})
    # Bytes that a client sends are held before Python sees them.
    code = f"""
import numpy, pyarrow as pa
from pyarrow import flight
client = flight.FlightClient("grpc://{serving.address}")
batch = pa.record_batch([pa.array(numpy.zeros(64 << 20))], names=["n"])
try:
    writer, _ = client.do_put(flight.FlightDescriptor.for_path("numbers"), batch.schema)
    writer.write_batch(batch)
    writer.close()
except pa.ArrowException:
    pass
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, timeout=120, check=False)
    assert (done.returncode, done.stderr) == (0, b"")
    until(lambda: serving.listener() != first, "another listener")
    until(serving.ready, "readiness")
    with mamba.open(serving.address) as log:
        log["numbers"].append([{"n": 1.0}])
    assert numbers(serving.address) == [1.0]


def test_what_a_listener_may_take_is_there_for_what_it_holds(start):
    serving = start()
    batch = pa.record_batch({"n": np.arange(1 << 20)})
    with mamba.open(serving.address) as log:
        log.create_topic("numbers", batch.schema)
    with flight.connect(f"grpc://{serving.address}") as client:
        writer, _ = client.do_put(flight.FlightDescriptor.for_path("numbers"), batch.schema)
        for _ in range(8):
            writer.write_batch(batch)
        writer.close()
    # No allocator has reserved for itself what another one finds missing, and for which gRPC has no answer.
    reserved, used = memory_of(serving.listener())
    assert reserved - used < 512 << 20


def test_a_burst_of_clients_that_send_faster_than_the_log_takes_is_taken_in(start):
    serving = start()
    batch = pa.record_batch({"n": np.arange(1 << 17)})
    with mamba.open(serving.address) as log:
        log.create_topic("numbers", batch.schema)

    def send() -> int:
        acknowledged = 0
        with flight.connect(f"grpc://{serving.address}") as client:
            writer, answers = client.do_put(flight.FlightDescriptor.for_path("numbers"), batch.schema)
            for _ in range(64):
                writer.write_batch(batch)
            writer.done_writing()
            while (answer := answers.read()) is not None:
                acknowledged += len(protocol.decode(answer, protocol.Ack).offsets)
            writer.close()
        return acknowledged

    with ThreadPoolExecutor(3) as clients:
        assert [each.result() for each in [clients.submit(send) for _ in range(3)]] == [64] * 3
    assert serving.named("listener ended") == []
    with mamba.open(serving.address) as log:
        assert log["numbers"].offsets() == {0: (0, 3 * 64 * batch.num_rows)}


def test_health_by_grpc_follows_readiness(start):
    serving = start()
    with grpc.insecure_channel(serving.health) as channel:
        stub = health_pb2_grpc.HealthStub(channel)

        def status(service=""):
            asked = health_pb2.HealthCheckRequest(service=service)
            return health_pb2.HealthCheckResponse.ServingStatus.Name(stub.Check(asked, timeout=10).status)

        until(lambda: status() == "SERVING", "health")
        assert status("arrow.flight.protocol.FlightService") == "SERVING"
        os.kill(serving.listener(), signal.SIGSTOP)
        until(lambda: status() == "NOT_SERVING", "bad health")
        os.kill(serving.listener(), signal.SIGCONT)
        until(lambda: status() == "SERVING", "health")


@pytest.mark.parametrize(
    ("which", "family"),
    crossed(["listen", "http", "health"], [socket.AF_INET, socket.AF_INET6], every=2),
)
def test_a_port_that_another_process_has_is_said_so(tmp_path, spawn_command, which, family):
    host = "127.0.0.1" if family == socket.AF_INET else "::1"
    with socket.create_server((host, 0), family=family) as other:
        port = other.getsockname()[1]
        ports = {
            "listen": "localhost:0",
            "http": "localhost:0",
            "health": "localhost:0",
            which: f"localhost:{port}",
        }
        given = [word for name, address in ports.items() for word in (f"--{name}", address)]
        done = spawn_command("serve", "--log", tmp_path / "log", *given)
    assert done.code == 4
    assert f"{which} = localhost:{port}: another process listens there; end it, or choose another" in done.err
    assert done.out == ""


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["--listen", "9092"], 2, "HOST:PORT"),
        (["--memory", "much"], 2, "give a size"),
        (["--drain", "30"], 2, "with its unit"),
        (["--log-format", "xml"], 2, "choose one of auto, json, console"),
        (["--listen", "0.0.0.0:0"], 1, "without users everybody"),
        (["--tls-cert", "none.pem"], 1, "tls_key is not"),
        (["--log", "localhost:9092"], 1, "needs the directory"),
        (["--listen", "no.such.host.invalid:1"], 1, "can be reached from other machines"),
        (["--listen", "no.such.host.invalid:1", "--insecure"], 1, "give users, or listen on localhost"),
        (
            ["--listen", "no.such.host.invalid:1", "--insecure", "--users", __file__],
            4,
            "choose another host",
        ),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_wrong_settings_end_it_before_anything_is_started(tmp_path, run_command, arguments, code, words):
    done = run_command("serve", "--log", tmp_path / "log", *arguments)
    assert (done.code, done.out) == (code, "")
    assert words in done.err


def test_settings_of_the_file_and_the_environment_reach_the_server(start, tmp_path):
    # A disk of which 99% are to be free, which is none.
    disk = '[disk]\nsoft = "1%"\nhard = "99.99%"\nlargest = "1024TiB"\nballast = "2MiB"\n'
    (tmp_path / "mamba-stream.toml").write_text(f'[server]\nmemory = "300MiB"\ndrain = "1s"\n{disk}')
    serving = start(variables={"MAMBA_STREAM_SERVER_DRAIN": "7s"})
    with mamba.open(serving.address) as log:
        log.create_topic("numbers", ROWS)
        with pytest.raises(mamba.DiskNearlyFull, match="behind its soft mark.* it takes no rows"):
            log["numbers"].append(ROWS)
        with log.transaction() as tx:
            tx.commit_offsets("group", {("numbers", 0): 0})
        assert log.statistics().disk_state == "soft"
    found = serving.figures()
    assert found["mamba_stream_listener_memory_limit_bytes"] == 300 << 20
    assert found['mamba_stream_commit_refused_for_room_total{reason="disk"}'] == 1
    assert [found[f'mamba_stream_disk_mark_reached{{mark="{mark}"}}'] for mark in ("soft", "hard")] == [1, 0]
    assert found["mamba_stream_ballast_bytes"] == 0, "there is no room for it"
    assert found["mamba_stream_disk_bytes"] > found["mamba_stream_disk_free_bytes"] > 0
    serving.end()
    assert serving.named("draining")[0]["seconds"] == 7
    (tmp_path / "mamba-stream.toml").write_text("[server]\nmemori = 1\n")
    done = subprocess.run(
        [sys.executable, "-m", "mamba_stream.cli", "serve", "--log", "log"],
        cwd=tmp_path,
        env=dict(os.environ),
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 1
    assert (
        f"{tmp_path}/mamba-stream.toml: [server] memori is no setting, did you mean 'memory'?" in done.stderr
    )


def test_metrics_tell_of_queues_calls_commits_and_are_as_prometheus_wants_them(start):
    if shutil.which("promtool") is None:
        pytest.skip("promtool (Debian: prometheus) is not installed")
    serving = start()
    until(serving.ready, "readiness")
    with mamba.Producer(serving.address) as producer:
        producer.create_topic("letters")
        for number in range(5):
            producer.send("letters", f"{number}")
    consumer = mamba.Consumer(serving.address, group="readers")
    consumer.subscribe("letters")
    assert [message.value for message, _ in zip(consumer.consume(), range(2), strict=False)]
    with pytest.raises(mamba.MambaStreamError), mamba.open(serving.address) as log:
        log["none"]
    counted = mamba.stream("letters").with_columns(there=pl.lit(True)).select("there").to("counted")
    mamba.run(mamba.pipeline("count", counted), serving.address, until="now")
    found = serving.figures()
    assert found['mamba_stream_topic_messages{topic="letters"}'] == 5
    assert found['mamba_stream_group_backlog_messages{group="readers"}'] <= 5
    assert found['mamba_stream_topic_consumers{topic="letters"}'] == 1
    assert found["mamba_stream_commits_total"] > 0
    assert found["mamba_stream_commit_seconds_sum"] > 0
    buckets = [
        (name, value)
        for name, value in found.items()
        if name.startswith("mamba_stream_commit_seconds_bucket")
    ]
    assert [value for _, value in buckets] == sorted(value for _, value in buckets)
    last = ('mamba_stream_commit_seconds_bucket{le="+Inf"}', found["mamba_stream_commit_seconds_count"])
    assert buckets[-1] == last
    assert last[1] >= found["mamba_stream_commits_total"]
    assert found['mamba_stream_refused_total{kind="denied"}'] == 0
    assert found["mamba_stream_connections"] >= 1
    assert found['mamba_stream_calls_total{action="action/commit",outcome="ok"}'] > 0
    assert found["mamba_stream_received_bytes_total"] > 0
    assert found["mamba_stream_ready"] == 1
    consumer.close()
    assert found['mamba_stream_job_running{job="count"}'] == 0
    assert found['mamba_stream_job_commits_total{job="count"}'] >= 1
    assert found['mamba_stream_job_workers{job="count"}'] == 0
    assert found['mamba_stream_job_last_commit_timestamp_seconds{job="count"}'] > 1_700_000_000
    assert found['mamba_stream_group_backlog_messages{group="job.count"}'] == 0
    before = found["mamba_stream_commits_total"]
    text = serving.get("/metrics")[1]
    checked = subprocess.run(
        ["promtool", "check", "metrics"], input=text, capture_output=True, text=True, timeout=60, check=False
    )
    assert (checked.returncode, checked.stdout, checked.stderr) == (0, "", "")
    # What was counted is not forgotten with the listener that counted it.
    first = serving.listener()
    os.kill(first, signal.SIGKILL)
    until(lambda: serving.listener() != first, "another listener")
    assert serving.figures()["mamba_stream_commits_total"] >= before


def test_nothing_of_rows_is_in_what_is_written_down(start):
    serving = start("--log-level", "debug")
    with mamba.open(serving.address) as log:
        log.create_topic("numbers", {"secret": pl.String}).append([{"secret": "Sesame"}])
        with pytest.raises(mamba.MambaStreamError):
            log["numbers"].append([{"secret": "Sesame"}], expect={0: 5})
    os.kill(serving.listener(), signal.SIGKILL)
    until(lambda: len(serving.named("listener started")) == 2, "another listener")
    serving.end()
    assert "Sesame" not in "\n".join(serving.errors)
    for line in serving.events:
        assert list(line)[:3] == ["timestamp", "level", "event"]


def test_systemd_hears_that_it_is_ready_alive_reloading_and_stopping(start, tmp_path):
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as heard:
        heard.bind(str(tmp_path / "notify"))
        heard.settimeout(60)
        serving = start(variables={"NOTIFY_SOCKET": str(tmp_path / "notify"), "WATCHDOG_USEC": "600000"})

        def hear(begin):
            while not (said := heard.recv(4096).decode()).startswith(begin):
                pass
            return said

        assert hear("READY=1") == f"READY=1\nSTATUS=serving at {serving.address}"
        for _ in range(3):
            hear("WATCHDOG=1")
        serving.send(signal.SIGHUP)
        assert "MONOTONIC_USEC=" in hear("RELOADING=1")
        hear("READY=1")
        serving.send(signal.SIGTERM)
        assert hear("STOPPING=1")
        # Another signal would not wait.
        assert serving.process.wait(60) == 0
        assert serving.end() == 0


def test_a_client_that_comes_while_the_server_is_gone_is_told_what_to_do(start):
    serving = start()
    serving.end()
    with pytest.raises(ServerUnavailable, match="mamba-stream serve"):
        mamba.open(serving.address)
