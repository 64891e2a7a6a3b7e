//! `org.varlink.service`: introspection, on every socket.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::Interface;

/// The interface, as the Varlink specification gives it.
pub const INTERFACE: Interface = Interface {
    name: "org.varlink.service",
    idempotent: &["GetInfo", "GetInterfaceDescription"],
    idl: "# The Varlink Service Interface is provided by every varlink service.
interface org.varlink.service

# Get a list of all the interfaces a service provides and information
# about the implementation.
method GetInfo() -> (
  vendor: string,
  product: string,
  version: string,
  url: string,
  interfaces: []string
)

# Get the description of an interface that is implemented by this service.
method GetInterfaceDescription(interface: string) -> (description: string)

error InterfaceNotFound (interface: string)
error MethodNotFound (method: string)
error MethodNotImplemented (method: string)
error InvalidParameter (parameter: string)
error PermissionDenied ()
error ExpectedMore ()
",
};

/// Reply of `GetInfo`.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct Info {
    /// Who made it.
    pub vendor: String,
    /// What it is.
    pub product: String,
    /// Its version.
    pub version: String,
    /// Where to read about it.
    pub url: String,
    /// Full names of the interfaces served.
    pub interfaces: Vec<String>,
}

/// Parameters of `GetInterfaceDescription`.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct DescriptionIn {
    /// Full name.
    pub interface: String,
}

/// Reply of `GetInterfaceDescription`.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct DescriptionOut {
    /// IDL text.
    pub description: String,
}
