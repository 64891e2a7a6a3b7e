#!/usr/bin/env python3
"""Sits at a terminal before `brahman top`: terminal.py PROGRAM PID... stops the processes named, and has them go on.

Waits for what is to be seen, never for a time; whoever calls it bounds the whole."""
import fcntl
import os
import pty
import select
import signal
import struct
import sys
import termios
import time

PROGRAM, PIDS = sys.argv[1], [int(pid) for pid in sys.argv[2:]]
ENTER = "\x1b[?1049h"
LEAVE = b"\x1b[?1049l"
PATIENCE_S = 60


class Terminal:
    """A pseudo-terminal of 80 columns and 24 lines, and `brahman top` on it."""

    def __init__(self):
        self.seen = b""
        self.master, slave = pty.openpty()
        self.resize(24, 80, None)
        self.before = termios.tcgetattr(slave)
        self.slave = slave
        self.pid = self.launch()

    def launch(self):
        pid = os.fork()
        if pid == 0:
            # Without a controlling terminal: the one of whoever runs the tests is not to be found, and the end of the session does
            # not hang this one up.
            os.setsid()
            self.become_top()
        return pid

    def become_top(self):
        for descriptor in (0, 1, 2):
            os.dup2(self.slave, descriptor)
        os.environ["TERM"] = "xterm-256color"
        os.execv(PROGRAM, [PROGRAM, "top"])

    def resize(self, lines, columns, pid):
        fcntl.ioctl(self.master, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))
        if pid:
            os.kill(pid, signal.SIGWINCH)

    def read(self):
        ready, _, _ = select.select([self.master], [], [], PATIENCE_S)
        if not ready:
            raise SystemExit(f"nothing more came; seen: {self.seen[-4000:]!r}")
        try:
            return os.read(self.master, 65536)
        except OSError:
            return b""

    def until(self, words):
        """Reads until the words have come, and forgets what came before them."""
        words = words.encode()
        while words not in self.seen:
            more = self.read()
            if not more:
                raise SystemExit(f"it ended before {words!r}; seen: {self.seen[-4000:]!r}")
            self.seen += more
        self.seen = self.seen.split(words, 1)[1]

    def type(self, keys):
        os.write(self.master, keys.encode())

    def end(self):
        """Waits for its end, reading on; it has given the terminal back as it was."""
        until, ended = time.monotonic() + PATIENCE_S, 0
        while not ended:
            if time.monotonic() > until:
                raise SystemExit(f"it does not end; seen: {self.seen[-4000:]!r}")
            ended, status = os.waitpid(self.pid, os.WNOHANG)
            # What it wrote last is there by now.
            while select.select([self.master], [], [], 0 if ended else 0.05)[0]:
                self.seen += os.read(self.master, 65536)
        code = os.waitstatus_to_exitcode(status)
        assert code == 0, (code, self.seen[-4000:])
        self.is_given_back()

    def is_given_back(self):
        assert LEAVE in self.seen, self.seen[-4000:]
        assert b"\x1b[?25h" in self.seen, "the cursor is there again"
        assert termios.tcgetattr(self.slave) == self.before, "the terminal's modes are as they were"


class Shell(Terminal):
    """The same as the job of a shell, which tells when it has stopped or ended."""

    def launch(self):
        self.tells, telling = os.pipe()
        hearing, self.goes_on = os.pipe()
        pid = os.fork()
        if pid == 0:
            for descriptor in (self.tells, self.goes_on, self.master):
                os.close(descriptor)
            os.setsid()
            fcntl.ioctl(self.slave, termios.TIOCSCTTY, 0)
            job = os.fork()
            if job == 0:
                os.setpgid(0, 0)
                # Whoever is not in the foreground is stopped for this.
                signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTTOU])
                os.tcsetpgrp(self.slave, os.getpid())
                signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGTTOU])
                self.become_top()
            while True:
                _, status = os.waitpid(job, os.WUNTRACED)
                stopped = os.WIFSTOPPED(status)
                told = f"stopped {os.WSTOPSIG(status)}" if stopped else f"ended {status}"
                os.write(telling, told.encode())
                # The terminal is hung up with this session: it goes on until everything was looked at.
                if not os.read(hearing, 1):
                    os._exit(0)
                os.killpg(job, signal.SIGCONT)
        os.close(telling)
        os.close(hearing)
        return pid

    def hear(self):
        """What the shell tells; what was drawn before that has been read."""
        told = b""
        while not told:
            ready, _, _ = select.select([self.master, self.tells], [], [], PATIENCE_S)
            if not ready:
                raise SystemExit(f"the shell tells nothing; seen: {self.seen[-4000:]!r}")
            if self.tells in ready:
                told = os.read(self.tells, 100)
            while select.select([self.master], [], [], 0.05 if told else 0)[0]:
                self.seen += os.read(self.master, 65536)
        return told.decode()

    def go_on(self):
        os.write(self.goes_on, b"g")

    def close(self):
        os.close(self.goes_on)
        os.waitpid(self.pid, 0)


# A module's log, a wider window, q.
terminal = Terminal()
terminal.until("embed-mock")
terminal.type("G\r")
# What stays as it was is not drawn again: neither is the space behind these.
terminal.until("Esc")
terminal.type("\x1b")
terminal.until("Tab")
terminal.resize(40, 160, terminal.pid)
# The last line, which there was not before.
terminal.until("\x1b[40;")
terminal.type("q")
terminal.end()

# Ctrl-C is a key; SIGTERM, SIGINT and SIGHUP come from outside.
terminal = Terminal()
terminal.until("embed-mock")
terminal.type("\x03")
terminal.end()
for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
    terminal = Terminal()
    terminal.until("embed-mock")
    os.kill(terminal.pid, number)
    terminal.end()

# Ctrl-Z stops it, with the terminal as it was; it goes on with another picture.
shell = Shell()
shell.until("embed-mock")
for _ in range(2):
    shell.seen = b""
    shell.type("\x1a")
    assert shell.hear() == f"stopped {signal.SIGTSTP:d}"
    shell.is_given_back()
    shell.seen = b""
    shell.go_on()
    shell.until(ENTER)
    shell.until("embed-mock")
shell.type("q")
assert shell.hear() == "ended 0"
shell.is_given_back()
shell.close()

# The mesh goes, and comes back.
terminal = Terminal()
terminal.until("embed-mock")
try:
    for pid in PIDS:
        os.kill(pid, signal.SIGSTOP)
    terminal.until("disconnected")
    # The table's head, a line further down, and then back in its place.
    terminal.until("MODULE")
finally:
    for pid in PIDS:
        os.kill(pid, signal.SIGCONT)
terminal.until("MODULE")
terminal.type("q")
terminal.end()
print("fine")
