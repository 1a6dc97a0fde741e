"""What the measuring scripts count with: quantiles, ratios, texts, loads, and servers that do not start."""

import json
import math
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from emotion_measure import comparison, processes
from emotion_measure.load import Load, quantile
from emotion_measure.service import Service, ServiceError
from emotion_measure.texts import NoTexts, read_texts


@pytest.fixture
def listener():
    """A server that answers as the heavy model, and with 503 to a text that says so."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self):
            text = json.loads(self.rfile.read(int(self.headers["Content-Length"])))["text"]
            reply = json.dumps({"model": {"role": "heavy"}}).encode()
            self.send_response(503 if "busy" in text else 200)
            self.send_header("Content-Length", str(len(reply)))
            self.end_headers()
            self.wfile.write(reply)

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield server.server_address[1]
    server.shutdown()
    thread.join()
    server.server_close()


def test_a_quantile_is_the_least_value_that_enough_do_not_exceed():
    values = [float(value) for value in range(100, 0, -1)]
    assert [quantile(values, share) for share in (0.5, 0.99, 1)] == [50, 99, 100]
    assert quantile([7.0], 0.99) == 7
    assert math.isnan(quantile([], 0.5))


def test_a_load_counts_answers_and_failures_and_asks_each_text_once(listener):
    texts = ["fine", "busy", "fine", "fine", "busy"]
    asked = []

    def text(number):
        asked.append(number)
        return texts[number]

    load = Load(listener, 2, len(texts), text).finish()
    assert sorted(asked) == [0, 1, 2, 3, 4]
    assert load.answers == {"heavy": 3} and len(load.times) == 3
    assert [failure[:3] for failure in load.failures] == ["503", "503"]


def test_a_load_ends_with_its_seconds(listener):
    load = Load(listener, 2, 10**9, lambda number: "fine", seconds=0.2).finish()
    assert 0 < len(load.times) < 10**9 and not load.failures


def test_a_load_gives_up_where_nobody_listens():
    load = Load(1, 2, 10**9, lambda number: "fine").finish()
    assert not load.times and 1 <= len(load.failures) <= 2


def test_a_server_that_ends_at_once_is_an_error_with_its_log(tmp_path):
    command = [sys.executable, "-c", "import sys; sys.exit('no weights here')"]
    with Service(lambda port: command, {}, tmp_path / "log") as service:
        with pytest.raises(ServiceError, match="(?s)ended with 1 before it listened.*no weights here"):
            service.wait_until_listening()


def test_a_server_that_never_listens_is_an_error(tmp_path):
    command = [sys.executable, "-c", "import time; time.sleep(600)"]
    with Service(lambda port: command, {}, tmp_path / "log") as service:
        with pytest.raises(ServiceError, match="does not listen after"):
            service.wait_until_listening(seconds=0.3)
    assert service.process.returncode is not None


def test_texts_of_a_folder_come_once_in_an_order_that_stays(tmp_path):
    (tmp_path / "dev.tsv").write_text("one\t1\ta\ntwo\t2\tb\n\n", encoding="utf-8")
    (tmp_path / "test.tsv").write_text("two\t3\tc\nthree\u2028still three\t4\td\n", encoding="utf-8")
    texts = read_texts(tmp_path)
    assert sorted(texts) == ["one", "three\u2028still three", "two"] and texts == read_texts(tmp_path)
    with pytest.raises(NoTexts, match="holds no texts"):
        read_texts(tmp_path / "missing")


def figures(title, factor):
    load = comparison.LoadFigures(10, 0, 20.0 * factor, 4.0 * factor, 5.0 * factor, 6.0 * factor, 0.5)
    return comparison.Figures(title, 2.0 * factor, *[100.0 * factor] * 4, 0.0, dict.fromkeys(comparison.CLIENTS, load))


def test_the_table_has_ratios_to_the_base_and_none_without_it():
    ours, theirs = figures("ours", 0.25), figures("theirs", 1)
    differences = {"heavy": {"transformers": 0.01}}
    text = comparison.table({"heavy": ours, "transformers": theirs}, "transformers", differences)
    assert "| resident after start, MB | 25 (0.25x) | 100 |" in text
    assert "| greatest difference of a score to ours |  | 0.010 |" in text
    assert "x)" not in comparison.table({"heavy": ours}, "transformers", {})


def test_scores_of_other_labels_are_refused():
    assert comparison.greatest_difference([{"joy": 0.5}], [{"joy": 0.25}]) == 0.25
    with pytest.raises(ServiceError, match="labels"):
        comparison.greatest_difference([{"joy": 0.5}], [{"fear": 0.5}])


def test_mapped_cuda_libraries_are_counted_with_their_zeroed_data():
    smaps = """\
7f00-7f10 r-xp 00000000 00:01 5 /site-packages/nvidia/cublas/libcublasLt.so.13
Pss: 2048 kB
7f10-7f20 rw-p 00000000 00:00 0
Pss: 1024 kB
7f20-7f30 r-xp 00000000 00:01 6 /lib/libc.so.6
Pss: 4096 kB
7f30-7f40 rw-p 00000000 00:00 0
Pss: 4096 kB
"""
    assert processes.cuda_mb(smaps) == 3
