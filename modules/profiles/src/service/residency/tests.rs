//! Whose memory a module takes, before and after it says so itself.

use brahman_card::Card;

use super::*;

fn record(more: &str) -> ModuleRecord {
    let text = format!(
        "schema_version = 1\nlabel = \"m\"\n{more}\n[payload.native]\nexec = \"embed-real\"\n"
    );
    let card = Card::parse("t.toml", text.as_bytes()).expect("a good Card");
    ModuleRecord {
        socket: String::new(),
        attributes: card.attributes.clone(),
        card,
        state: ModuleState::Stopped,
        pid: 0,
        incarnation: 1,
        restarts: 0,
        deaths: None,
        kills: None,
        uptime_ms: 0,
        reason: None,
        shortfalls: Vec::new(),
        origin: None,
    }
}

fn gpus() -> Vec<GpuReading> {
    (0..2)
        .map(|index| GpuReading { index, uuid: format!("GPU-{index}"), ..GpuReading::default() })
        .collect()
}

#[test]
fn a_module_s_memory_is_where_its_card_says_and_then_where_it_says_itself() {
    let of = |record: &ModuleRecord| slot_of(record, None, None, &gpus()).to_string();
    assert_eq!(of(&record("")), "GPU-0", "auto takes the first there is");
    assert_eq!(slot_of(&record(""), None, None, &[]), SlotId::Cpu);
    assert_eq!(slot_of(&record(""), Some("cpu"), None, &gpus()), SlotId::Cpu);
    assert_eq!(of(&record("mock = true")), "cpu");
    assert_eq!(of(&record("environment = { BRAHMAN_DEVICE = \"cuda:1\" }")), "GPU-1");
    assert_eq!(
        of(&record("environment = { BRAHMAN_DEVICE = \"cuda:0\", CUDA_VISIBLE_DEVICES = \"1\" }")),
        "GPU-1"
    );
    let mut named = record("environment = { BRAHMAN_DEVICE = \"cuda:GPU-1\" }");
    assert_eq!(of(&named), "GPU-1", "by its UUID");
    named.attributes.insert("device".to_owned(), "cuda:0".to_owned());
    named.state = ModuleState::Ready;
    assert_eq!(of(&named), "GPU-1", "whatever number CUDA has for it");
    named.attributes.insert("device".to_owned(), "cpu".to_owned());
    assert_eq!(of(&named), "cpu");
    let mut fallen_back = record("environment = { BRAHMAN_DEVICE = \"cuda:1\" }");
    fallen_back.attributes.insert("device".to_owned(), "cpu".to_owned());
    assert_eq!(of(&fallen_back), "GPU-1", "what it said in an earlier life is not what it will be");
    fallen_back.state = ModuleState::Ready;
    assert_eq!(of(&fallen_back), "cpu");
}

#[test]
fn what_a_card_declares_is_for_its_device_or_for_the_main_memory() {
    let gpu = SlotId::Gpu("GPU-0".to_owned());
    let both = record("limits = { vram_mib = 700, memory = \"2G\" }");
    assert_eq!((declared(&both, &gpu), declared(&both, &SlotId::Cpu)), (Some(700), Some(700)));
    let memory = record("limits = { memory = \"2G\" }");
    assert_eq!((declared(&memory, &gpu), declared(&memory, &SlotId::Cpu)), (None, Some(2048)));
    assert!(!is_model(&memory) && is_model(&both));
}
