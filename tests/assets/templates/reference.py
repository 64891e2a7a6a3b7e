"""Models' folders of five families, made up on the spot, and the ids that transformers gives conversations by their chat templates.

    python3 reference.py FOLDER    writes FOLDER/<family>/{tokenizer.json, tokenizer_config.json, config.json, chat_template.jinja} and
                                   FOLDER/<family>/cases.json: [{conversation, ids, without: {key: ids}}]

Needs transformers and jinja2. What a conversation of ours is in messages is written down here a second time, from the documentation.
"""

import json
import pathlib
import sys

from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

HERE = pathlib.Path(__file__).resolve().parent
WORDS = ["The gate is blue.", "Which colour is the gate?", "Renmu keeps the barometer in Tasvoli, behind the second door.", "naïve café – 東京 🚲",
         "user assistant system model tool", "\n\n", "  two spaces", "Today Date: 26 Jul 2024", '{"name": "weather", "arguments": {"place": "Kolva"}}']

# Special tokens; whether the tokenizer is one of bytes; where memories and the sections stand; whether it knows tools.
FAMILIES = {
    "chatml": (["<|im_start|>", "<|im_end|>"], True, "system", True, False),
    "llama3": (["<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"], True, "system", True, True),
    "mistral": (["<s>", "</s>", "[INST]", "[/INST]"], False, "user", True, False),
    "gemma": (["<bos>", "<eos>", "<start_of_turn>", "<end_of_turn>"], False, "user", False, False),
    "qwen": (["<|im_start|>", "<|im_end|>", "<think>", "</think>", "<tool_call>", "</tool_call>"], True, "system", True, True),
}


def tokenizer(special, of_bytes, bos):
    made = Tokenizer(models.BPE(byte_fallback=not of_bytes, unk_token=None if of_bytes else "<unk>"))
    if of_bytes:
        made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        made.decoder = decoders.ByteLevel()
        alphabet = pre_tokenizers.ByteLevel.alphabet()
    else:
        made.normalizer = normalizers.Replace(" ", "▁")
        made.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
        alphabet = []
    bytes_of = [] if of_bytes else ["<unk>"] + [f"<0x{byte:02X}>" for byte in range(256)]
    trainer = trainers.BpeTrainer(vocab_size=600, initial_alphabet=alphabet, special_tokens=bytes_of, show_progress=False)
    made.train_from_iterator(WORDS * 4, trainer)
    made.add_special_tokens([AddedToken(token, normalized=False, special=True) for token in special])
    if bos:
        made.post_processor = processors.TemplateProcessing(
            single=[bos, "$A"], pair=[bos, "$A", "$B"], special_tokens=[(bos, made.token_to_id(bos))])
    return made


def entry(role, text):
    return {"role": role, "text": text}


def memory(key, text, role="memory"):
    return {"role": role, "key": key, "text": text}


def conversations(tools):
    plain = [entry("user", "Which colour is the gate?"), entry("assistant", "The gate is blue."),
             entry("user", "And where is the barometer?"), entry("assistant", " Renmu keeps it in Tasvoli. ")]
    made = [
        {"conversation": plain},
        {"system": [{"text": "Be brief."}], "conversation": plain},
        {"system": [{"text": "Be brief."}, memory("home", "Home is Kolva.")], "identity": [{"text": "You are Sam."}],
         "conversation": [memory("gate", "The gate is blue."), *plain[:2], memory("far", "naïve café – 東京 🚲"), *plain[2:]]},
        {"conversation": [*plain[:2], memory("own", "I live in Kolva.", "user"), entry("assistant", "Noted."), *plain[2:]]},
        {"conversation": [memory("a", "One.\n\nTwo."), memory("b", "Three."), memory("c", "One.\n\nTwo."), *plain]},
        {"conversation": [entry("user", "<|im_end|>[/INST]"), entry("assistant", "  two spaces\n\n"), *plain]},
    ]
    if tools:
        call = {"type": "function", "function": {"name": "weather", "arguments": {"place": "Kolva", "days": 2}}}
        made.append({
            "tools": [{"type": "function", "function": {"name": "weather", "description": "It's \"real\" <now>", "parameters": {}}}],
            "system": [{"text": "Be brief."}],
            "conversation": [memory("home", "Home is Kolva."), entry("user", "Is it warm?"),
                             {"role": "assistant", "text": "", "tool_calls": [call], "reasoning_content": "I must look."},
                             {"role": "tool", "text": "20 degrees", "name": "weather"},
                             {"role": "assistant", "text": "It is 20 degrees.", "reasoning_content": "That is warm."}],
        })
    return made


def messages(conversation, memories, system_in_place, without):
    """As docs/explanation/memory-scoring.md has it."""
    there = lambda one: one.get("key") not in without or one.get("key") is None
    sections = [e["text"] for name in ("system", "identity", "journal") for e in conversation.get(name, []) if there(e)]
    made, waiting = [], []
    if sections and system_in_place:
        made.append({"role": "system", "content": "\n\n".join(sections)})
    elif sections:
        waiting = sections
    for one in filter(there, conversation["conversation"]):
        more = {name: one[name] for name in ("name", "tool_calls", "reasoning_content") if name in one}
        if one["role"] == "memory" and memories == "user":
            waiting.append(one["text"])
        elif one["role"] == "memory":
            made.append({"role": "system", "content": one["text"]})
        else:
            text = one["text"]
            if one["role"] == "user":
                text, waiting = "\n\n".join([*waiting, text]), []
            made.append({"role": one["role"], "content": text, **more})
    return made


def main(folder):
    for family, (special, of_bytes, memories, system_in_place, tools) in FAMILIES.items():
        place = folder / family
        place.mkdir(parents=True)
        begins = special[0] if "s>" in special[0][:3] or special[0].startswith(("<|begin", "<bos")) else None
        ends = special[1] if not of_bytes else special[-1]
        made = tokenizer(special, of_bytes, begins)
        template = (HERE / f"{family}.jinja").read_text()
        fast = PreTrainedTokenizerFast(tokenizer_object=made, bos_token=begins, eos_token=ends, chat_template=template)
        fast.save_pretrained(place)
        (place / "config.json").write_text(json.dumps({"model_type": family, "max_position_embeddings": 65536}))
        cases = []
        for conversation in conversations(tools):
            def ids(without=()):
                said = messages(conversation, memories, system_in_place, without)
                return fast.apply_chat_template(said, tools=conversation.get("tools"), tokenize=True, return_dict=False)
            try:
                whole = ids()
            except Exception as refusal:  # pylint: disable=broad-except
                cases.append({"conversation": conversation, "refused": str(refusal)})
                continue
            keys = [e["key"] for name in ("system", "identity", "conversation") for e in conversation.get(name, []) if "key" in e]
            without = {}
            for key in keys:
                try:
                    without[key] = ids((key,))
                except Exception as refusal:  # pylint: disable=broad-except
                    without[key] = str(refusal)
            cases.append({"conversation": conversation, "ids": whole, "without": without})
        (place / "cases.json").write_text(json.dumps(cases))


if __name__ == "__main__":
    main(pathlib.Path(sys.argv[1]))
