#!/usr/bin/env python3
"""A Brahman module in Python's standard library alone: counts words. init passes the listening socket as descriptor 3
and learns that the module is ready by sd_notify."""
import json, os, signal, socket, threading

IDL = """# Counts words.
interface org.example.WordCount

method Count(text: string) -> (words: int)
"""
INFO = {"vendor": "example", "product": "wordcount", "version": "1", "url": "https://example.org",
        "interfaces": ["org.varlink.service", "org.example.WordCount"]}


def answer(call):
    method, p = call["method"], call.get("parameters") or {}
    if method == "org.varlink.service.GetInfo":
        return {"parameters": INFO}
    if method == "org.varlink.service.GetInterfaceDescription" and p.get("interface") == "org.example.WordCount":
        return {"parameters": {"description": IDL}}
    if method == "org.example.WordCount.Count":
        if not isinstance(p.get("text"), str):
            return {"error": "org.varlink.service.InvalidParameter", "parameters": {"parameter": "text"}}
        return {"parameters": {"words": len(p["text"].split())}}
    return {"error": "org.varlink.service.MethodNotFound", "parameters": {"method": method}}


def converse(connection):
    with connection:
        pending = b""
        while chunk := connection.recv(65536):
            pending += chunk
            *messages, pending = pending.split(b"\0")
            for message in messages:
                call = json.loads(message)
                reply = answer(call)
                if not call.get("oneway"):
                    connection.sendall(json.dumps(reply).encode() + b"\0")


def main():
    signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
    listener = socket.socket(fileno=3)
    listener.setblocking(True)
    notify = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    notify.sendto(b"READY=1", os.environ["NOTIFY_SOCKET"])
    while True:
        connection, _ = listener.accept()
        threading.Thread(target=converse, args=(connection,), daemon=True).start()


main()
