//! [`start`]: the engine that the settings describe, and one VM: the program.

use crate::following;
use std::sync::Arc;
use zspool::guest::control::{ControlError, EngineControl, Place, Server, Settings, SwapKind, SwapSettings};
use zspool::guest::{Engine, Error, Follow, Service, ThreadOptions, Vm, VmOptions};
use zspool::swap::{BlockDevice, DeviceOptions, SwapFile};
use zspool::zswap::Zswap;

/// Threads of ours that read or write at a time: who serves faults, evicts, works in the background, cares for children, and is asked to.
const RINGS: usize = 8;

/// Why there is none.
#[derive(Debug)]
pub(crate) enum Failed {
    Engine(String),
    Control(ControlError),
}

impl std::fmt::Display for Failed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Failed::Engine(sentence) => f.write_str(sentence),
            Failed::Control(error) => error.fmt(f),
        }
    }
}

/// Make them.
///
/// # Errors
/// A sentence.
pub(crate) fn start(settings: &Settings, program: &str) -> Result<(Engine, Vm), Failed> {
    let said = |error: &dyn std::error::Error| Failed::Engine(error.to_string());
    let mut zswap = Zswap::builder().encryption(!settings.plain_devices);
    if let Some(codec) = &settings.codec {
        zswap = zswap.codec(codec);
    }
    if let Some(bytes) = settings.pool_limit {
        zswap = zswap.pool_limit(bytes);
    }
    for swap in &settings.swapfiles {
        zswap = zswap.swap(device(swap).map_err(|error| said(&*error))?);
    }
    let zswap = zswap.build().map_err(|error| said(&error))?;
    let make = || -> Result<(Engine, Vm), Error> {
        let engine = Engine::new(zswap)?;
        let memcg = engine.root().mkdir(program)?;
        for (file, bytes) in [("memory.high", settings.memory_high), ("memory.max", settings.memory_max)] {
            if let Some(bytes) = bytes {
                memcg.write_file(file, &bytes.to_string())?;
            }
        }
        // One thread: events of the kernel and faults are then met in the order in which they came.
        let service = Service::Threads(ThreadOptions::new(1));
        let options = VmOptions::new().service(service).kernel_faults(true).children(true);
        let options = options.follow(Follow::Mappings).on_change(following::changed);
        let vm = engine.vm(&memcg, options)?;
        Ok((engine, vm))
    };
    make().map_err(|error| said(&error))
}

/// Have it answer.
///
/// # Errors
/// When there can be no socket.
pub(crate) fn listen(settings: &Settings, program: &str, engine: &Engine) -> Result<Server, Failed> {
    let place = Place::at(&settings.place);
    place.make().map_err(Failed::Control)?;
    let control = EngineControl::new(engine.clone(), program);
    Server::start(&place.socket(std::process::id()), Arc::new(control)).map_err(Failed::Control)
}

fn device(settings: &SwapSettings) -> Result<DeviceOptions, Box<dyn std::error::Error>> {
    let SwapSettings { kind, size, priority, tier, path } = settings;
    let file = || SwapFile::options().size(size.unwrap_or(0)).rings(RINGS);
    let block = |overwrite| {
        let mut block = BlockDevice::options().path(path).overwrite(overwrite).rings(RINGS);
        if let Some(size) = *size {
            block = block.size(size);
        }
        block.open()
    };
    let options = match kind {
        SwapKind::File => DeviceOptions::swapfile(file().path(path)),
        SwapKind::Unnamed => DeviceOptions::swapfile(file().unnamed(path)),
        SwapKind::Block => DeviceOptions::device(block(false)?),
        SwapKind::BlockOverwrite => DeviceOptions::device(block(true)?),
    };
    Ok(options.tier(tier, *priority))
}
