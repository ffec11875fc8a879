//! `wasi:filesystem` and `wasi:sockets`: imported by language runtimes whether they use them or not, so they are
//! linked, but their functions trap.

use wasmtime::component::types::{ComponentInstance, ComponentItem};
use wasmtime::component::{Component, Linker, ResourceType, Val};
use wasmtime::{Engine, Result, bail};
use wasmtime_wasi::p2::{DynInputStream, DynOutputStream, DynPollable, IoError};

use crate::guest::Guest;
use crate::trap::HostTrap;

const PACKAGES: [&str; 2] = ["wasi:filesystem/", "wasi:sockets/"];
/// The one function of them that answers: a libc asks it when a path is opened for the first time, and then knows of
/// no directory.
const PREOPENS: &str = "get-directories";

/// A file, a directory, a socket: there is none.
struct Nothing;

/// Links what a component imports of these packages. By name, as the component has it: versions of WASI differ in what
/// is in them.
pub(crate) fn deny(linker: &mut Linker<Guest>, component: &Component, engine: &Engine) -> Result<()> {
    for (name, import) in component.component_type().imports(engine) {
        if let ComponentItem::ComponentInstance(instance) = import.ty
            && PACKAGES.iter().any(|package| name.starts_with(package))
        {
            deny_instance(linker, name, &instance, engine)?;
        }
    }
    Ok(())
}

/// Interfaces repeat the resources of `wasi:io` that they use: these are the same there and here.
fn resource(name: &str) -> ResourceType {
    match name {
        "error" => ResourceType::host::<IoError>(),
        "input-stream" => ResourceType::host::<DynInputStream>(),
        "output-stream" => ResourceType::host::<DynOutputStream>(),
        "pollable" => ResourceType::host::<DynPollable>(),
        _ => ResourceType::host::<Nothing>(),
    }
}

fn deny_instance(linker: &mut Linker<Guest>, name: &str, instance: &ComponentInstance, engine: &Engine) -> Result<()> {
    let mut linker = linker.instance(name)?;
    for (item_name, item) in instance.exports(engine) {
        match item.ty {
            ComponentItem::Resource(_) => linker.resource(item_name, resource(item_name), |_, _| Ok(()))?,
            ComponentItem::ComponentFunc(_) if item_name == PREOPENS => {
                linker.func_new(item_name, |mut store, _, _, results| {
                    store.data_mut().pay(0)?;
                    if let [result] = results {
                        *result = Val::List(vec![]);
                    }
                    Ok(())
                })?;
            }
            ComponentItem::ComponentFunc(_) => {
                let what = format!("{name}#{item_name}");
                linker.func_new(item_name, move |_, _, _, _| bail!(HostTrap::NotGranted(what.clone())))?;
            }
            // Types: they are compared by their structure.
            _ => {}
        }
    }
    Ok(())
}
