//! `switchboard deploy`: checks an artifact as a host does, writes it to the control topic and routes tenants to it.

use std::path::{Path, PathBuf};
use std::thread;

use anyhow::Context as _;
use switchboard_core::registry::{Deployment, RegistryState, ReleaseRecord, deploy as decide};
use switchboard_releases::TrustedKeys;

use super::Outcome;
use super::application::{Application, change, current_actor, new_request};
use crate::cli::DeployArgs;
use crate::wiring;

/// The largest signature file that is read. A minisign signature has about 300 bytes.
const MAX_SIGNATURE_BYTES: usize = 16 << 10;

/// Deploys a plugin.
///
/// # Errors
/// Why nothing was deployed, and what to do.
pub fn deploy(args: DeployArgs) -> anyhow::Result<Outcome> {
    let DeployArgs { artifact: path, assignment, signature, wait, json, settings } = args;
    let application = Application::new(settings)?;
    let settings = &application.settings;
    let sandbox = wiring::sandbox(settings)?;
    let bytes = sandbox.read_file(&path)?;
    let signature = read_signature(&path, signature)?;
    // A host with the same trusted keys would refuse it too.
    let keys = TrustedKeys::read(&settings.trusted_keys)?;
    keys.verify(&bytes, signature.as_deref()).with_context(|| path.display().to_string())?;
    let mut writer = application.new_writer()?;
    let artifact = thread::scope(|scope| {
        scope.spawn(|| writer.connect());
        sandbox.load(&bytes)
    });
    let artifact = artifact.with_context(|| path.display().to_string())?;
    application.check_topics(&RegistryState::default(), artifact.manifest())?;
    let record = ReleaseRecord {
        manifest: artifact.manifest().clone(),
        migrates: artifact.release().migrates.clone(),
        size: artifact.size(),
        chunks: ReleaseRecord::chunks_of(bytes.len()),
        signature,
        actor: current_actor(),
    };
    let audience = application.audience(&assignment)?;
    let release = artifact.digest();
    let deployment = Deployment { release, artifact: &bytes, record, audience, gate: assignment.gate() };

    application.prepare()?;
    let request = new_request(assignment.note);
    change(&mut writer, json, wait.time(), |registry| {
        application.check_topics(registry, artifact.manifest())?;
        Ok(decide(registry, &deployment, request.clone())?)
    })
}

/// Reads the signature of `--signature`, else the one next to the artifact.
fn read_signature(artifact: &Path, from_flag: Option<PathBuf>) -> anyhow::Result<Option<String>> {
    let next_to_artifact = || Some(artifact.with_added_extension("minisig")).filter(|path| path.exists());
    let Some(path) = from_flag.or_else(next_to_artifact) else { return Ok(None) };
    let text = std::fs::read_to_string(&path).with_context(|| format!("reading the signature {}", path.display()))?;
    anyhow::ensure!(
        text.len() <= MAX_SIGNATURE_BYTES,
        "{} has {} bytes, so it is not a signature: give the .minisig file that minisign creates",
        path.display(),
        text.len()
    );
    Ok(Some(text))
}
