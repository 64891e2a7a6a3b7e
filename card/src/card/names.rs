//! Files and interfaces that are the mesh's own: no Card may take them, or it would stand in for
//! init, the broker or a lock. Labels that are its own are in [`crate::names`].

use crate::interface;

/// Longest path of a Unix socket: the kernel's 108 bytes less the ending NUL.
pub const SOCKET_PATH_BYTES_MAX: usize = 107;

/// Interfaces that init itself answers, or that every socket has: an offer of them would lead calls
/// astray.
pub const INTERFACES_OF_INIT: [&str; 2] =
    [interface::init::INTERFACE.name, interface::service::INTERFACE.name];

/// Files beside the mesh socket that the mesh itself makes, whatever the socket is called.
const FILES: [&str; 6] =
    ["brahman.sock", "init.sock", "notify.sock", "init.lock", "context", "context.tmp"];

/// Whether a file of this name beside the mesh socket is the mesh's own.
#[must_use]
pub fn is_reserved(file: &str) -> bool {
    FILES.contains(&file)
}

#[cfg(test)]
mod tests {
    use super::super::Card;
    use crate::names::Kind;

    fn refusal(label: &str, more: &str) -> Option<String> {
        let text = format!(
            "schema_version = 1\nlabel = \"{label}\"\n{more}\n[payload.native]\nexec = \"x\"\n"
        );
        Card::parse("test.toml", text.as_bytes()).err().map(|e| e.to_string())
    }

    #[test]
    fn labels_and_sockets_of_the_mesh_itself_are_refused_by_name() {
        for label in Kind::Label.reserved() {
            let why = refusal(label, "").unwrap_or_default();
            assert!(why.contains(&format!("`{label}`")) && why.contains("label"), "{label}: {why}");
        }
        for socket in super::FILES {
            for path in [socket.to_owned(), format!("/run/brahman/{socket}")] {
                let why = refusal("x", &format!("service_socket = \"{path}\"")).unwrap_or_default();
                assert!(
                    why.contains("service_socket") && why.contains("the mesh's own"),
                    "{path}: {why}"
                );
            }
        }
        for socket in [".", "..", ".hidden", "a/b", "", "/", "/run/brahman/"] {
            assert!(refusal("x", &format!("service_socket = \"{socket}\"")).is_some(), "{socket}");
        }
        for (label, socket) in [
            ("broker", "x.sock"),
            ("init-helper", "init2.sock"),
            ("contexts", "/run/brahman/contexts.sock"),
        ] {
            assert_eq!(refusal(label, &format!("service_socket = \"{socket}\"")), None, "{label}");
        }
    }

    #[test]
    fn an_interface_that_init_answers_is_offered_by_no_card() {
        for interface in super::INTERFACES_OF_INIT {
            let offer = format!(
                "flow.output = [{{ name = \"x\", type = {{ interface = {{ name = \"{interface}\" }} }} }}]"
            );
            let why = refusal("x", &offer).unwrap_or_default();
            assert!(why.contains(interface) && why.contains("flow.output[0]"), "{why}");
        }
    }
}
