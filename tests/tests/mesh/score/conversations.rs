//! Conversations as people and programs have them: templates, files, weights, turns.

use super::*;

#[tokio::test]
async fn a_conversation_goes_through_a_chat_template_and_the_reply_says_which() {
    let mesh = mock().await;
    let said = "The spare key hangs in the shed.";
    let messages = json!([
        { "role": "system", "content": "Be brief." },
        { "role": "user", "content": "Good morning." },
        { "role": "assistant", "content": "Good morning." },
        { "role": "system", "content": said, "memory": "key" },
        { "role": "user", "content": "Where is the key?" },
        { "role": "assistant", "content": said },
    ]);
    let ask = |chat: Value| json!({ "messages": messages, "chat_template": chat, "fresh": true });
    let scored = async |chat: Value| {
        mesh.call("org.brahman.Score.ScoreMatrix", ask(chat)).await.expect("scored")
    };
    let out = scored(json!({ "text": template("chatml") })).await;
    assert!(
        out["rows"][0]["deltas"][1].as_f64() > Some(20.0) && out["rows"][0]["deltas"][0] == 0.0,
        "{out}"
    );
    assert_eq!(
        (&out["chat_template"]["source"], &out["chat_template"]["memories"]),
        (&json!("given"), &json!("system"))
    );
    // In the role of its message the template refuses it; a memory without a role stands where the
    // template takes it.
    let mistral = json!({ "text": template("mistral"), "variables": { "bos_token": "<s>", "eos_token": "</s>" } });
    let fault = mesh.fault("org.brahman.Score.ScoreMatrix", ask(mistral.clone())).await;
    assert!(fault.message().contains("must alternate"), "{fault}");
    let mut roleless = ask(mistral);
    roleless["messages"][3]["role"] = "memory".into();
    let out = mesh.call("org.brahman.Score.ScoreMatrix", roleless).await.expect("scored");
    assert!(out["rows"][0]["deltas"][1].as_f64() > Some(20.0), "{out}");
    assert_eq!(out["chat_template"]["memories"], "user");
    // Without a template the reply says so, and how it was done.
    let out = scored(json!({})).await;
    assert_eq!(out["chat_template"]["source"], "none");
    assert!(
        out["chat_template"]["notes"][0]
            .as_str()
            .is_some_and(|note| note.contains("no chat template")),
        "{out}"
    );
    // What cannot be used is refused by name, and nothing else is lost.
    for (chat, words) in [
        (
            json!({ "text": "{% for a in range(10000) %}{% for b in range(10000) %}{% endfor %}{% endfor %}" }),
            "steps",
        ),
        (
            json!({ "text": "{% set n = namespace(s='0123456789') %}{% for i in range(60) %}{% set n.s = n.s ~ n.s %}{% endfor %}" }),
            "MiB of memory",
        ),
        (json!({ "text": "x".repeat(1 << 20) }), "1048576 bytes"),
        (json!({ "text": "{% include '/etc/passwd' %}" }), "template not found"),
        (json!({ "text": "a\n{{ open('/etc/passwd') }}" }), "line 2"),
        (json!({ "name": "tool_use" }), "no chat template `tool_use`"),
        (json!({ "name": "a", "text": "b" }), "expected one of them"),
        (json!({ "variables": 7, "text": "a" }), "expected an object"),
    ] {
        let fault = mesh.fault("org.brahman.Score.ScoreMatrix", ask(chat)).await;
        assert!(
            fault.name == "org.varlink.service.InvalidParameter" && fault.message().contains(words),
            "{words}: {fault}"
        );
    }
    let unknown = json!({ "messages": [{ "role": "user", "content": "a", "weight": 0 }] });
    let fault = mesh.fault("org.brahman.Score.ScoreMatrix", unknown).await;
    assert!(fault.message().contains("weight"), "{fault}");
    assert!(
        mesh.call("org.brahman.Score.Logprobs", json!({ "text": "ab" })).await.is_ok(),
        "it serves on"
    );
}

#[tokio::test]
async fn files_of_every_shape_are_read_and_what_is_wrong_has_a_place() {
    let mesh = mock().await;
    let file = mesh.folder.path().join("c.jsonl");
    let lines = [
        json!({ "messages": [{ "role": "user", "content": "Say Kolva." }, { "role": "assistant", "content": "Kolva." }] }),
        json!({ "conversations": [{ "from": "human", "value": "Say Renmu." }, { "from": "gpt", "value": "Renmu." }] }),
    ];
    std::fs::write(&file, lines.map(|line| format!("{line}\n")).concat()).expect("written");
    let out = mesh
        .call("org.brahman.Score.ScoreMatrix", json!({ "path": file, "line": 2 }))
        .await
        .expect("scored");
    assert_eq!(out["scored"][0]["text"], "Renmu.");
    let fault = mesh.fault("org.brahman.Score.ScoreMatrix", json!({ "path": file })).await;
    assert!(fault.message().contains("2 conversations"), "{fault}");
    std::fs::write(&file, "{\"conversation\": [\n{\"role\": \"user\", \"txt\": \"a\"}]}")
        .expect("written");
    let fault = mesh.fault("org.brahman.Score.ScoreMatrix", json!({ "path": file })).await;
    assert!(fault.message().contains("line 2") && fault.message().contains("txt"), "{fault}");
    // The same for a person, from a pipe too.
    let text = "\u{feff}[{\"role\": \"user\", \"content\": \"Say it.\"}, {\"role\": \"assistant\", \"content\": \"It.\"}]";
    std::fs::write(&file, text).expect("written");
    let out =
        mesh.brahman_json(&["score", "matrix", &file.display().to_string(), "--template", "none"]);
    assert_eq!((&out["responses"], &out["chat_template"]["source"]), (&json!(1), &json!("none")));
}

#[tokio::test]
async fn a_weight_belongs_to_a_namespace_and_is_due_again_when_its_text_changes() {
    let mesh = mock().await;
    let conversation = |fact: &str| {
        json!({ "conversation": [
            memory("fact", fact), entry("user", "Where is the barometer?"), entry("assistant", "Renmu keeps it in Tasvoli."),
            entry("user", "And the anchor?"), entry("assistant", "Nobody knows where the anchor is, I am told."),
            memory("late", "The anchor is lost."), entry("user", "Thanks."), entry("assistant", "You are welcome."),
        ]})
    };
    let score = async |fact: &str, namespace: Option<&str>| {
        let ask = json!({ "conversation": conversation(fact), "max_age_s": 3600, "namespace": namespace });
        mesh.call("org.brahman.Score.ScoreIncremental", ask).await.expect("scored")
    };
    let fact = "Renmu keeps it in Tasvoli.";
    let first = score(fact, None).await;
    assert_eq!(
        (&first["due"], &first["late"], &first["namespace"]),
        (&json!(1), &json!(1), &json!("default"))
    );
    assert_eq!(score(fact, None).await["due"], 0);
    assert_eq!(score(fact, Some("planner")).await["due"], 1, "another agent's");
    let changed = score("Somebody keeps it elsewhere.", None).await;
    assert_eq!(
        (&changed["due"], &changed["rows"][0]["count"]),
        (&json!(1), &json!(2)),
        "another text"
    );
    let weight = changed["rows"][0]["weight"].as_f64().expect("a number");
    assert!(
        weight < first["rows"][0]["weight"].as_f64().expect("a number") / 2.0,
        "its average begins anew: {changed}"
    );
    // What a long system text says moves no memory behind the cut.
    let mut long = conversation(fact);
    long["system"] = json!([entry("system", &"All work and no play. ".repeat(50))]);
    let out = mesh
        .call("org.brahman.Score.ScoreIncremental", json!({ "conversation": long, "max_age_s": 0 }))
        .await
        .expect("scored");
    assert_eq!((&out["due"], &out["late"]), (&json!(1), &json!(1)), "{out}");
    // Listed and forgotten, by a person.
    let list = mesh.brahman_json(&["score", "weights", "--namespace", "planner"]);
    assert_eq!(
        (list["weights"].as_array().map(Vec::len), &list["weights"][0]["key"]),
        (Some(1), &json!("fact"))
    );
    assert_eq!(
        mesh.brahman_json(&["score", "weights", "--namespace", "planner", "--reset", "fact"])["removed"],
        1
    );
    assert_eq!(
        mesh.brahman(&["score", "weights", "--namespace", "planner", "--reset", "fact"])
            .status
            .code(),
        Some(4)
    );
    assert_eq!(score(fact, Some("planner")).await["due"], 1);
    assert_eq!(
        mesh.brahman_json(&["score", "weights"])["weights"].as_array().map(Vec::len),
        Some(1),
        "the other namespace's stay"
    );
    let fault =
        mesh.fault("org.brahman.Score.Weights", json!({ "namespace": "uid-4294967294" })).await;
    assert!(fault.name.ends_with("PermissionDenied"), "{fault}");
}

#[tokio::test]
async fn the_last_entries_are_what_finetune_reads() {
    let mesh = mock().await;
    let said = "The code of the gate is Zarnip.";
    let conversation = json!({ "conversation": [
        memory("early", said), entry("user", "Hello."), entry("assistant", "Hi."), entry("user", "The code?"), entry("assistant", said),
    ]});
    let ask = |whole: bool| json!({ "conversation": conversation, "count": 2, "whole": whole });
    let last = mesh.call("org.brahman.Score.ScoreFinetune", ask(false)).await.expect("scored");
    assert_eq!(
        (&last["memories"], &last["entries"], &last["results"][0]["entry"]),
        (&json!(0), &json!(2), &json!(4))
    );
    let whole = mesh.call("org.brahman.Score.ScoreFinetune", ask(true)).await.expect("scored");
    assert_eq!((&whole["memories"], &whole["results"][0]["entry"]), (&json!(1), &json!(4)));
    assert!(whole["results"][0]["divergence"].as_f64() > Some(20.0), "{whole}");
    // What is wrong is named by its place in what was given, whether it is among the last or not.
    for at in [1, 3] {
        let mut wrong = ask(false);
        wrong["conversation"]["conversation"][at] = json!({ "role": "user" });
        let fault = mesh.fault("org.brahman.Score.ScoreFinetune", wrong).await;
        assert!(fault.message().contains(&format!("conversation[{at}]")), "{fault}");
    }
}

#[tokio::test]
async fn a_call_of_higher_priority_goes_between_the_passes_of_a_long_one() {
    let mesh = real(|setup| setup).await;
    let long = planted(21, 6, 40, 4, 60, false);
    let mut running = Connection::connect(&mesh.socket()).await.expect("connected");
    let ask = json!({ "conversation": long.conversation, "fresh": true });
    running
        .send(
            &encode_call(
                "org.brahman.Score.ScoreMatrix",
                &ask,
                &CallOptions::default(),
                true,
                false,
            )
            .expect("encoded"),
        )
        .await
        .expect("sent");
    let first: Value = running.receive().await.expect("a reply").typed().expect("no error").value;
    assert_eq!(first["phase"], "row");
    let urgent = mesh.call(
        "org.brahman.Score.Logprobs",
        json!({ "text": "Where is the barometer?", "priority": 9 }),
    );
    let rows = async {
        let mut rows = 1;
        while running.receive().await.expect("a reply").continues {
            rows += 1;
        }
        rows
    };
    // Whoever is first: the urgent one is answered while rows are still missing.
    tokio::pin!(rows);
    tokio::select! {
        biased;
        answered = urgent => assert!(answered.is_ok()),
        rows = &mut rows => panic!("all {rows} rows came before the urgent call was answered"),
    }
    assert_eq!(rows.await, 6, "and nothing of the long call is lost");
}
