//! `wasi:filesystem` and `wasi:sockets`, denied.
//!
//! The runtimes of languages import these packages even when a plugin uses neither files nor network. So the sandbox
//! links them, and their functions trap. The definitions come from the component's own imports: versions of WASI differ
//! in what these packages contain.

use wasmtime::component::types::{ComponentInstance, ComponentItem};
use wasmtime::component::{Component, Linker, ResourceType, Val};
use wasmtime::{Engine, Result, bail};

use crate::bindings::wasi::wasi::io::error::Error;
use crate::bindings::wasi::wasi::io::poll::Pollable;
use crate::bindings::wasi::wasi::io::streams::{InputStream, OutputStream};
use crate::guest::Guest;
use crate::trap::HostTrap;

const DENIED_PACKAGES: [&str; 2] = ["wasi:filesystem/", "wasi:sockets/"];

/// The only function of these packages that answers. A libc calls it when a program opens its first path, and gets no
/// directory.
const GET_PREOPENS: &str = "get-directories";

/// The type of files, directories and sockets. No value of it exists.
struct Denied;

/// Links what the component imports from the denied packages.
pub(crate) fn deny(linker: &mut Linker<Guest>, component: &Component) -> Result<()> {
    let engine = component.engine();
    for (name, import) in component.component_type().imports(engine) {
        if let ComponentItem::ComponentInstance(instance) = import.ty
            && DENIED_PACKAGES.iter().any(|package| name.starts_with(package))
        {
            deny_instance(linker, name, &instance, engine)?;
        }
    }
    Ok(())
}

fn deny_instance(linker: &mut Linker<Guest>, name: &str, instance: &ComponentInstance, engine: &Engine) -> Result<()> {
    let mut linker = linker.instance(name)?;
    for (item_name, item) in instance.exports(engine) {
        match item.ty {
            ComponentItem::Resource(_) => linker.resource(item_name, resource(item_name), |_, _| Ok(()))?,
            ComponentItem::ComponentFunc(_) if item_name == GET_PREOPENS => {
                linker.func_new(item_name, |mut store, _, _, results| {
                    store.data_mut().charge_fuel(0)?;
                    if let [result] = results {
                        *result = Val::List(vec![]);
                    }
                    Ok(())
                })?;
            }
            ComponentItem::ComponentFunc(_) => {
                let function = format!("{name}#{item_name}");
                linker.func_new(item_name, move |_, _, _, _| bail!(HostTrap::NotGranted(function.clone())))?;
            }
            // Types need no definition: wasmtime compares them by structure.
            _ => {}
        }
    }
    Ok(())
}

/// The denied interfaces repeat the resources of `wasi:io` that they use. wasmtime requires the same type there and here.
fn resource(name: &str) -> ResourceType {
    match name {
        "error" => ResourceType::host::<Error>(),
        "input-stream" => ResourceType::host::<InputStream>(),
        "output-stream" => ResourceType::host::<OutputStream>(),
        "pollable" => ResourceType::host::<Pollable>(),
        _ => ResourceType::host::<Denied>(),
    }
}
