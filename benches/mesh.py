"""A mesh for a measurement: started in a folder of its own, called over its socket, stopped, and gone with its folder."""

import contextlib
import copy
import json
import os
import shutil
import signal
import socket
import subprocess
import tempfile

# Seconds that a mesh has to start and to stop, and that one call may take.
START_S = 120
STOP_S = 60
CALL_S = 3600


class Mesh:
    """`programs` is the folder of the programs; `name` tells its folder from others'; `cards` is a folder of Cards, the built-in ones
    unless said; what else is given is for its environment. To be used in a `with`."""

    def __init__(self, programs, name, cards=None, **environment):
        programs = os.path.abspath(programs)
        self.folder = tempfile.mkdtemp(prefix=f"brahman-{name}.")
        os.chmod(self.folder, 0o700)
        self.brahman = os.path.join(programs, "brahman")
        self.env = {
            **os.environ,
            "PATH": programs + os.pathsep + os.environ["PATH"],
            "BRAHMAN_SOCKET": self.folder + "/run/brahman.sock",
            "BRAHMAN_STATE": self.folder + "/state",
            **environment,
        }
        self.cards = ["--cards", cards] if cards else []
        self.process, self.connection, self.rest = None, None, b""

    def __enter__(self):
        try:
            with open(self.folder + "/log", "wb") as log:
                self.process = subprocess.Popen([self.brahman, "up", "--context", "prod", *self.cards], env=self.env, stdout=log, stderr=log)
            self.run("status", "--wait", str(START_S))
            self.connection = socket.socket(socket.AF_UNIX)
            self.connection.settimeout(CALL_S)
            self.connection.connect(self.env["BRAHMAN_SOCKET"])
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_):
        if self.connection:
            self.connection.close()
        if self.process:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(STOP_S)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        shutil.rmtree(self.folder, ignore_errors=True)

    def run(self, *arguments):
        """A command of the CLI; what it says is told only if it fails."""
        done = subprocess.run([self.brahman, *arguments], env=self.env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        if done.returncode:
            with open(self.folder + "/log", encoding="utf8", errors="replace") as log:
                end = log.read()[-4000:]
            raise SystemExit(f"brahman {' '.join(arguments)}: exit {done.returncode}\n{done.stdout}\nthe mesh's log ends with:\n{end}")

    def call(self, method, **parameters):
        """The reply's parameters to a call of `org.brahman.…`."""
        return self._ask({"method": "org.brahman." + method, "parameters": parameters})

    def last(self, method, **parameters):
        """The last reply's parameters to a call that reports how far it is."""
        return self._ask({"method": "org.brahman." + method, "parameters": parameters, "more": True})

    def _ask(self, message):
        self.connection.sendall(json.dumps(message).encode() + b"\0")
        while True:
            parts = [self.rest]
            while b"\0" not in parts[-1]:
                parts.append(self.connection.recv(1 << 20))
                if not parts[-1]:
                    raise SystemExit(f"{message['method']}: the connection was closed")
            whole, self.rest = b"".join(parts).split(b"\0", 1)
            reply = json.loads(whole)
            if "error" in reply:
                raise SystemExit(f"{message['method']}: {reply}")
            if not reply.get("continues"):
                return reply["parameters"]

    @contextlib.contextmanager
    def another(self):
        """The same mesh through a connection of its own, for another thread."""
        other = copy.copy(self)
        other.rest = b""
        with socket.socket(socket.AF_UNIX) as other.connection:
            other.connection.settimeout(CALL_S)
            other.connection.connect(self.env["BRAHMAN_SOCKET"])
            yield other

    def pid(self, program):
        """That of a program which the mesh has started."""
        with open(f"/proc/{self.process.pid}/task/{self.process.pid}/children") as children:
            for pid in children.read().split():
                try:
                    if os.path.basename(os.readlink(f"/proc/{pid}/exe")) == program:
                        return pid
                except OSError:
                    # It has ended meanwhile.
                    continue
        raise SystemExit(f"no {program} runs")
