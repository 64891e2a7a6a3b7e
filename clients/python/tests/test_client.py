"""Tests on a mesh that runs: ``BRAHMAN_SOCKET`` names it. ``python -m unittest discover clients/python/tests``.

``make test`` runs them on the mocks (tests/tests/mesh/gateway.rs); a word of ``BRAHMAN_TEST_KILL`` is the label of a module that may be killed.
"""

import asyncio
import fcntl
import os
import signal
import socket
import tempfile
import unittest
import warnings

import brahman
from brahman._sync import Connection
from brahman._wire import Frames
from brahman.results import Hits


class ResultsTest(unittest.TestCase):
    def test_hits_of_a_dataset_that_is_gone_say_so(self) -> None:
        reply = {"results": [[]], "generation": 3, "model": "m", "stale": False}
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            self.assertFalse(Hits.of(reply).dataset_gone)
        with self.assertWarnsRegex(brahman.BrahmanWarning, "deleted or renamed"):
            self.assertTrue(Hits.of({**reply, "dataset_gone": True}).dataset_gone)


class ConnectionTest(unittest.TestCase):
    def test_what_is_no_reply_is_an_error_of_one_kind(self) -> None:
        for text in (b"{", b"[]", b'{"parameters": [1]}', b'{"parameters": ' + b"[" * 200_000 + b"]" * 200_000 + b"}"):
            frames = Frames()
            frames.feed(text + b"\0")
            with self.assertRaises(brahman.ProtocolError):
                frames.next()

    def test_a_connection_of_a_high_descriptor_is_used_again(self) -> None:
        with tempfile.TemporaryDirectory() as folder, socket.socket(socket.AF_UNIX) as server:
            path = os.path.join(folder, "s")
            server.bind(path)
            server.listen()
            connection = Connection(path, 1.0)
            self.addCleanup(connection.close)
            other, _ = server.accept()
            self.assertTrue(connection.is_reusable)
            try:
                high = fcntl.fcntl(connection._socket.fileno(), fcntl.F_DUPFD, 1024)
            except (OSError, ValueError):
                self.skipTest("no descriptor is as high")
            connection._socket.close()
            connection._socket = socket.socket(fileno=high)
            self.assertTrue(connection.is_reusable)
            other.close()
            self.assertFalse(connection.is_reusable, "the other end has gone")

    def test_a_process_that_was_forked_uses_no_connection_of_its_parent(self) -> None:
        with tempfile.TemporaryDirectory() as folder, socket.socket(socket.AF_UNIX) as server:
            path = os.path.join(folder, "s")
            server.bind(path)
            server.listen()
            client = brahman.Client(path, timeout=1.0)
            self.addCleanup(client.close)
            first = client._take()
            client._give_back(first)
            self.assertIs(client._take(), first)
            client._give_back(first)
            client._process = -1
            other = client._take()
            self.addCleanup(other.close)
            self.assertIsNot(other, first)
            first.close()


@unittest.skipUnless(os.environ.get("BRAHMAN_SOCKET"), "no mesh")
class ClientTest(unittest.TestCase):
    def setUp(self) -> None:
        warnings.simplefilter("ignore", brahman.BrahmanWarning)
        self.mesh = brahman.Client()
        self.addCleanup(self.mesh.close)

    def test_texts_become_vectors_in_their_order(self) -> None:
        texts = [f"text {n}" for n in range(600)]
        vectors = self.mesh.embed(texts)
        self.assertEqual(len(vectors), 600)
        self.assertEqual(list(vectors[7]), list(self.mesh.embed([texts[7]])[0]))
        full = self.mesh.embed_full(texts[:2])
        self.assertTrue(full.model and full.dim == len(full.vectors[0]))

    def test_an_error_is_an_exception_of_its_name(self) -> None:
        with self.assertRaises(brahman.NoSuchIndex) as caught:
            self.mesh.search("no-such-index", "x")
        self.assertTrue(caught.exception.name.endswith(".NoSuchIndex"))
        with self.assertRaises(brahman.InvalidParameter):
            self.mesh.call("org.brahman.Embed.EmbedText", {"texts": ["a"], "no_such": 1})
        self.assertTrue(self.mesh.status()["modules"], "the connection goes on")

    def test_files_are_ingested_indexed_found_and_opened(self) -> None:
        with tempfile.TemporaryDirectory() as folder:
            with open(os.path.join(folder, "a.md"), "w", encoding="utf-8") as file:
                file.write("# Gates\n\nThe gate is blue.\n")
            last = list(self.mesh.ingest("python-notes", [folder]))[-1]
            self.assertEqual((last.phase, last.data["rows"]), ("done", 1))
        self.mesh.create_index("python-notes", "python-notes")
        self.assertEqual(list(self.mesh.refresh("python-notes"))[-1].phase, "done")
        hits = self.mesh.search("python-notes", "gate", mode="lexical")
        self.assertIn("blue", hits[0].text)
        for empty in ("", " \n"):
            with self.assertRaises(brahman.InvalidParameter):
                self.mesh.search("python-notes", empty)
        with self.mesh.dataset("python-notes") as notes:
            self.assertTrue(all(os.path.exists(path) for path in notes.paths))

    def test_a_call_outlives_the_broker(self) -> None:
        label = os.environ.get("BRAHMAN_TEST_KILL")
        if not label:
            self.skipTest("nothing may be killed")
        self.mesh.embed(["before"])
        for _ in range(3):
            pid = next(module["pid"] for module in self.mesh.status()["modules"] if module["label"] == label)
            os.kill(pid, signal.SIGKILL)
            self.assertEqual(len(self.mesh.embed(["after"])), 1)

    def test_it_is_the_same_for_asyncio(self) -> None:
        async def work() -> None:
            async with brahman.AsyncClient() as mesh:
                several = await asyncio.gather(*(mesh.embed([f"text {n}"]) for n in range(20)))
                self.assertEqual(len(several), 20)
                with self.assertRaises(brahman.NoSuchIndex):
                    await mesh.search("no-such-index", "x")

        asyncio.run(work())


class WireTest(unittest.TestCase):
    def test_a_reply_may_come_in_any_pieces(self) -> None:
        from brahman._wire import Frames

        frames = Frames()
        data = b'{"parameters":{"a":1},"continues":true}\0{"parameters":{"a":2}}\0'
        seen = []
        for at in range(len(data)):
            frames.feed(data[at : at + 1])
            reply = frames.next()
            if reply is not None:
                seen.append((reply.parameters["a"], reply.continues))
        self.assertEqual(seen, [(1, True), (2, False)])

    def test_texts_are_cut_into_calls_in_their_order(self) -> None:
        from brahman._wire import parts

        texts = ["x" * 10] * 7
        self.assertEqual([len(part) for part in parts(texts, 3, 1000)], [3, 3, 1])
        self.assertEqual([len(part) for part in parts(texts, 100, 100)], [2, 2, 2, 1])
        self.assertEqual(parts([], 3, 10), [])


if __name__ == "__main__":
    unittest.main()
