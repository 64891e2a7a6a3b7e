"""A server that speaks vLLM's dialect, with counts of pairs of tokens as its model. Prints its port, then serves whoever has $TOKEN."""

import http.server
import json
import math
import os
from collections import Counter


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def reply(self, value):
        body = json.dumps(value).encode()
        self.send_response(200)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def allowed(self):
        if self.headers["authorization"] == f"Bearer {os.environ['TOKEN']}":
            return True
        self.send_response(401)
        self.send_header("content-length", "0")
        self.end_headers()
        return False

    def do_GET(self):
        if not self.allowed():
            return
        self.reply({"object": "list", "data": [{"id": "pairs", "object": "model", "max_model_len": 9000}]})

    def do_POST(self):
        prompt = json.loads(self.rfile.read(int(self.headers["content-length"])))["prompt"]
        if not self.allowed():
            return
        single, pairs, told = Counter(prompt[:1]), Counter(), [None]
        for at, (before, token) in enumerate(zip(prompt, prompt[1:]), start=1):
            likely = 8 * pairs[before, token] + single[token] + 0.1
            told.append({str(token): {"logprob": math.log(likely / (8 * pairs[before] + at + 25.6)), "rank": 1}})
            single[token] += 1
            pairs[before, token] += 1
            pairs[before] += 1
        self.reply({"object": "text_completion", "choices": [{"index": 0, "text": "", "prompt_logprobs": told}]})


server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
print(server.server_port, flush=True)
server.serve_forever()
