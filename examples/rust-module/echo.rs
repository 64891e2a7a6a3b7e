//! A whole module in Rust: a Card (`echo.toml`), an interface, one method, `serve`.

use std::process::ExitCode;
use std::sync::Arc;

use brahman_card::interface::MethodFacts;
use brahman_card::{Fault, Interface};
use brahman_sidecar::{Call, Module, Reply, Service, run};
use serde::{Deserialize, Serialize};

/// The interface: its name, its methods, of which one may be repeated after a failure, and its IDL
/// for foreign clients.
const INTERFACE: Interface = Interface {
    name: "org.example.Echo",
    methods: &[MethodFacts::named("Echo").idempotent()],
    idl: || "# Says it again.\ninterface org.example.Echo\n\nmethod Echo(text: string, times: ?int) -> (texts: []string)\n",
};

#[derive(Deserialize)]
struct EchoIn {
    text: String,
    times: Option<usize>,
}

#[derive(Serialize)]
struct EchoOut {
    texts: Vec<String>,
}

struct Echo;

impl Service for Echo {
    fn interfaces(&self) -> &'static [&'static Interface] {
        &[&INTERFACE]
    }

    async fn call(self: Arc<Self>, call: Call) -> Result<Reply, Fault> {
        match call.method() {
            "Echo" => {
                let EchoIn { text, times } = call.parameters()?;
                let times = times.unwrap_or(1);
                if times > 1000 {
                    return Err(Fault::invalid_parameter(
                        "times",
                        format!("{times}, expected at most 1000"),
                    ));
                }
                Reply::of(&EchoOut { texts: vec![text; times] })
            }
            _ => Err(call.unknown()),
        }
    }
}

fn main() -> ExitCode {
    run("echo", async |module: Module| module.serve(Arc::new(Echo)).await)
}
