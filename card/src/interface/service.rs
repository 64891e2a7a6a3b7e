//! `org.varlink.service`: introspection, on every socket.

use brahman_card_derive::wire;

interface! {
    /// The Varlink Service Interface is provided by every varlink service.
    "org.varlink.service"
    methods {
        /// Get a list of all the interfaces a service provides and information
        /// about the implementation.
        GetInfo() -> Info: idempotent, reads;
        /// Get the description of an interface that is implemented by this service.
        GetInterfaceDescription(DescriptionIn) -> DescriptionOut: idempotent, reads;
    }
    errors {
        InterfaceNotFound { interface: String }
        MethodNotFound { method: String }
        MethodNotImplemented { method: String }
        InvalidParameter { parameter: String }
        PermissionDenied {}
        ExpectedMore {}
    }
}

/// Reply of `GetInfo`: who answers on this socket.
#[wire]
pub struct Info {
    pub vendor: String,
    pub product: String,
    pub version: String,
    pub url: String,
    pub interfaces: Vec<String>,
}

/// Parameters of `GetInterfaceDescription`: a full interface name.
#[wire]
pub struct DescriptionIn {
    pub interface: String,
}

/// Reply of `GetInterfaceDescription`: the interface's IDL text.
#[wire]
pub struct DescriptionOut {
    pub description: String,
}
