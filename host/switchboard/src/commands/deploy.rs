//! `switchboard deploy`: checks an artifact as a host would, writes it to the control topic and routes tenants to it.

use std::path::{Path, PathBuf};
use std::thread;

use anyhow::Context as _;
use switchboard_core::registry::{Deployment, RegistryState, ReleaseRecord, deploy as decide};

use super::control::{Application, by, change, stamp};
use super::run;
use crate::cli::DeployArgs;
use switchboard_releases::TrustedKeys;

/// The longest text that is taken for a signature; minisign's have about 300 bytes.
const MAX_SIGNATURE: usize = 16 << 10;

/// Deploys; false: it was waited for, and trouble was seen.
///
/// # Errors
/// Why nothing was deployed, with what to do.
pub fn deploy(args: DeployArgs) -> anyhow::Result<bool> {
    let DeployArgs { artifact: path, assignment, signature, wait, json, settings } = args;
    let application = Application::new(settings)?;
    let settings = &application.settings;
    let sandbox = run::sandbox(settings)?;
    let bytes = sandbox.read_file(&path)?;
    let signature = read_signature(&path, signature)?;
    // Hosts with these keys would not run it.
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
        by: by(),
    };
    let audience = application.audience(&assignment)?;
    let release = artifact.digest();
    let deployment = Deployment { release, artifact: &bytes, record, audience, gate: assignment.gate() };

    application.prepare()?;
    let stamp = stamp(assignment.note);
    change(&mut writer, json, wait.time(), |control| {
        application.check_topics(control, artifact.manifest())?;
        Ok(decide(control, &deployment, stamp.clone())?)
    })
}

/// The signature that was given, else the one that lies beside the artifact.
fn read_signature(artifact: &Path, given: Option<PathBuf>) -> anyhow::Result<Option<String>> {
    let beside = || Some(artifact.with_added_extension("minisig")).filter(|path| path.exists());
    let Some(path) = given.or_else(beside) else { return Ok(None) };
    let text = std::fs::read_to_string(&path).with_context(|| format!("reading the signature {}", path.display()))?;
    anyhow::ensure!(
        text.len() <= MAX_SIGNATURE,
        "{} has {} bytes, so it is no signature: give the .minisig file that minisign makes",
        path.display(),
        text.len()
    );
    Ok(Some(text))
}
