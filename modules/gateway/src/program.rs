//! What this crate's program runs.
//!
//! Here and not in `main.rs`: the code of a service's futures is generated where they are polled,
//! so once, with the library.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::process::ExitCode;
use std::sync::Arc;

use brahman_card::ModuleState;
use brahman_sidecar::{Module, ModuleError, chain, run};
use thiserror::Error;

use crate::door::Door;
use crate::keys::Keys;
use crate::mesh::Mesh;
use crate::service::Gateway;
use crate::settings::Settings;
use crate::upload;

/// Connections at once, if init does not say.
const CONNECTIONS_DEFAULT: usize = 4096;

/// An address that anybody may reach.
#[derive(Debug, Error)]
#[error(
    "listen: tcp:{address} can be reached from elsewhere, and the secrets file has no key: add a [NAME] with `key_sha256` and `flows`, or \
     listen on tcp:127.0.0.1:{port}"
)]
struct OpenAddress {
    address: SocketAddr,
    port: u16,
}

/// `brahman-gateway`: started by init.
pub fn gateway() -> ExitCode {
    run("gateway", async |mut module: Module| {
        let settings = Settings::from_env().map_err(ModuleError::refused)?;
        let keys = Keys::read().map_err(ModuleError::refused)?;
        let socket = module.take_listener()?;
        let addresses = module.take_tcp_listeners();
        let mut named = Vec::new();
        for listener in &addresses {
            let address = listener.local_addr()?;
            if !address.ip().to_canonical().is_loopback() && keys.is_empty() {
                return Err(ModuleError::refused(OpenAddress { port: address.port(), address }));
            }
            named.push(format!("http://{address}"));
        }
        let connections = std::env::var("BRAHMAN_QUOTA_CONNECTIONS")
            .ok()
            .and_then(|n| n.parse().ok())
            .unwrap_or(CONNECTIONS_DEFAULT);
        let uploads = module.cache.join("uploads").join(module.label());
        if let Err(error) = upload::clear(&uploads) {
            tracing::warn!(
                "files that were on their way stay in {}: {}",
                uploads.display(),
                chain(&error)
            );
        }
        let gateway = Arc::new(Gateway::new(
            Mesh::new(&module.mesh, module.drain.clone()),
            settings,
            keys,
            uploads,
        ));
        let door = Door::new(gateway, connections, module.drain.clone());
        let path = socket
            .local_addr()
            .ok()
            .and_then(|address| address.as_pathname().map(|path| path.display().to_string()));
        let mut attributes = BTreeMap::from([("socket".to_owned(), path.unwrap_or_default())]);
        if !named.is_empty() {
            attributes.insert("addresses".to_owned(), named.join(" "));
        }
        module.report(ModuleState::Ready, None, attributes).await;
        door.serve(socket, addresses).await;
        Ok(())
    })
}
