//! Who may sign the artifacts that this host runs: minisign signatures, verified with the operator's public keys.

use std::io;
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use minisign_verify::{Error, PublicKey, Signature};

/// The public keys that artifacts must be signed with. Without a key every artifact may run.
#[derive(Debug, Clone, Default)]
pub struct TrustedKeys {
    keys: Vec<TrustedKey>,
}

#[derive(Debug, Clone)]
struct TrustedKey {
    /// In minisign's notation: 16 hexadecimal digits.
    id: String,
    key: PublicKey,
}

/// An entry of `trusted-keys` that is not a public key, and what to do.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    #[error(
        "trusted key {entry:?} is neither a minisign public key (the second line of minisign.pub) nor the path of a \
         readable file: {error}"
    )]
    Unreadable { entry: String, error: io::Error },
    #[error(
        "trusted key {entry:?} is not in the format of minisign's public keys: give the .pub file that `minisign -G` creates"
    )]
    Format { entry: String },
}

/// Why a host with trusted keys does not run an artifact, and what to do.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum TrustError {
    #[error(
        "it is not signed, but trusted-keys requires a signature: sign it with `minisign -S -m PLUGIN.wasm`, which creates \
         PLUGIN.wasm.minisig"
    )]
    NotSigned,
    #[error("its signature {0} cannot be read: {1}")]
    Unreadable(PathBuf, String),
    #[error(
        "its signature is not in minisign's format: give the .minisig file that `minisign -S -m PLUGIN.wasm` creates"
    )]
    Format,
    #[error(
        "it is signed with the key {signed}, which is not trusted; trusted keys: {trusted}. Sign it with a trusted key, or add \
         the public key of {signed} to trusted-keys on every host"
    )]
    OtherKey { signed: String, trusted: String },
    #[error(
        "its signature by the key {0} does not match: the file or the signature was changed, or the signature belongs to another \
         build. Sign this file again"
    )]
    Mismatch(String),
    #[error(
        "its signature by the key {0} has minisign's legacy format: sign it again without -l, with minisign 0.10 or newer (or \
         with -H)"
    )]
    Legacy(String),
}

impl TrustedKeys {
    /// Reads the entries of `trusted-keys`: each is the base64 line of a public key, or the path of a .pub file.
    ///
    /// # Errors
    /// The first entry that is neither.
    pub fn read(entries: &[String]) -> Result<Self, KeyError> {
        let keys = entries.iter().map(|entry| TrustedKey::read(entry)).collect::<Result<_, _>>()?;
        Ok(Self { keys })
    }

    /// Whether there is no key, so that every artifact may run.
    pub fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }

    /// Verifies that a trusted key has signed an artifact. `signature`: the text of its .minisig file.
    ///
    /// A legacy signature signs the artifact itself instead of its hash. Legacy signatures are refused: minisign 0.10
    /// (2022) and newer create one only on request.
    ///
    /// # Errors
    /// Why the artifact may not run.
    pub fn verify(&self, bytes: &[u8], signature: Option<&str>) -> Result<(), TrustError> {
        if self.is_empty() {
            return Ok(());
        }
        let text = signature.ok_or(TrustError::NotSigned)?;
        let signature = Signature::decode(text).map_err(|_| TrustError::Format)?;
        let signed = key_id(text.lines().nth(1).unwrap_or_default()).ok_or(TrustError::Format)?;
        // A key's creator chooses its id, so several keys may have the same id.
        let mut verdict = TrustError::OtherKey { signed: signed.clone(), trusted: self.ids() };
        for trusted in &self.keys {
            match trusted.key.verify(bytes, &signature, false) {
                Ok(()) => return Ok(()),
                Err(Error::UnexpectedKeyId) => {}
                Err(Error::UnexpectedAlgorithm) => verdict = TrustError::Legacy(signed.clone()),
                Err(_) => verdict = TrustError::Mismatch(signed.clone()),
            }
        }
        Err(verdict)
    }

    /// Verifies a file by the signature next to it, where minisign puts it: `PLUGIN.wasm.minisig`.
    ///
    /// # Errors
    /// As `verify`, or when the signature cannot be read.
    pub fn verify_file(&self, path: &Path, bytes: &[u8]) -> Result<(), TrustError> {
        if self.is_empty() {
            return Ok(());
        }
        let signature_path = path.with_added_extension("minisig");
        let signature = match std::fs::read_to_string(&signature_path) {
            Ok(text) => Some(text),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => return Err(TrustError::Unreadable(signature_path, error.to_string())),
        };
        self.verify(bytes, signature.as_deref())
    }

    fn ids(&self) -> String {
        let ids: Vec<_> = self.keys.iter().map(|key| key.id.as_str()).collect();
        ids.join(", ")
    }
}

impl TrustedKey {
    fn read(entry: &str) -> Result<Self, KeyError> {
        if let Some(key) = Self::parse(entry) {
            return Ok(key);
        }
        let text = std::fs::read_to_string(entry);
        let text = text.map_err(|error| KeyError::Unreadable { entry: entry.to_owned(), error })?;
        // The first line of a .pub file is a comment.
        text.lines().nth(1).and_then(Self::parse).ok_or_else(|| KeyError::Format { entry: entry.to_owned() })
    }

    fn parse(line: &str) -> Option<Self> {
        Some(Self { key: PublicKey::from_base64(line.trim()).ok()?, id: key_id(line.trim())? })
    }
}

/// The id of a key, read from the base64 line of a key or of a signature. The first two bytes name the algorithm; the
/// next eight are the id, a little-endian number.
fn key_id(line: &str) -> Option<String> {
    let bytes = BASE64_STANDARD.decode(line).ok()?;
    let id: [u8; 8] = bytes.get(2..10)?.try_into().ok()?;
    Some(format!("{:016X}", u64::from_le_bytes(id)))
}

#[cfg(test)]
mod tests {
    use super::*;

    // Created by minisign 0.11: `minisign -G -W`, then `minisign -S` of a file with these bytes, and the same with -l.
    const ARTIFACT: &[u8] = b"an artifact";
    const KEY: &str = "RWT9+h/7X9/PFEuielRD2wJB5PLgGrwheCZswhuEx5t5AxmxARfSASSP";
    const KEY_ID: &str = "14CFDF5FFB1FFAFD";
    const SIGNATURE: &str = "untrusted comment: signature from minisign secret key
RUT9+h/7X9/PFCWpdcS07VLbwCsUzFualeDiN0P7TR2nZXI7dF4FdJvqxK9uy/SG6pwR57tdI4yvOxH53e+ggFdg/8CD5dLG2g4=
trusted comment: counter 1.0.0
yAuEZc9JzQOpiqyUeOkItYKTmcC2fZuvWAE5Bmzzew07Nc5cxMFoucxf5IMG9naylk0CMgrLxlH3iMlGcK3ABg==
";
    const LEGACY: &str = "untrusted comment: signature from minisign secret key
RWT9+h/7X9/PFJc8G5ml6ysU8vaXBgrff1mjtsoifuxIx5OqjDqiY57FpsrlLqZ8SYRsraw3ox98QEa88ffy4zllGu8CMQa3vwY=
trusted comment: timestamp:1795525069	file:artifact
2p7ZB9qEWmQNnkR9Kgl5H4/w55WpDF8WWEw1S0wi6zE+vd+dluAetTSyoqcYpBCMwQ7ArMvheIQzf0a1PjfUDw==
";
    const OTHER_KEY: &str = "RWTODA23YzxxGt4XYooAMgqF8+eZ6SflsB4OGoqX3Y+tS+sobCAXSmJ5";
    const OTHER_ID: &str = "1A713C63B70D0CCE";
    const OTHER_SIGNATURE: &str = "untrusted comment: signature from minisign secret key
RUTODA23YzxxGqvOsPcU0NsK+5oj6Yi6EBTG+KRHf7f3Gcy3aV6Up4I4AdFGTB3y1qrP0g1vJjIp/DGPMDw23V6fVxSoh43q4gs=
trusted comment: by the other key
KIEGAjY59eEqpb8Uuz0GHrGMasxRALJQWZahxUDgSRycJ9gHGwI33JKb3gN/cpNcguBAc7osBJXv1NXDpw7dCw==
";

    fn trusted(entries: &[&str]) -> TrustedKeys {
        TrustedKeys::read(&entries.iter().map(|&entry| entry.to_owned()).collect::<Vec<_>>()).unwrap()
    }

    #[test]
    fn without_keys_every_artifact_runs() {
        let none = trusted(&[]);
        assert_eq!(none.verify(ARTIFACT, None), Ok(()));
        assert_eq!(none.verify(ARTIFACT, Some("whatever")), Ok(()));
        assert_eq!(none.verify_file(Path::new("/nowhere"), ARTIFACT), Ok(()));
    }

    #[test]
    fn an_artifact_that_a_trusted_key_signed_runs() {
        assert_eq!(trusted(&[KEY]).verify(ARTIFACT, Some(SIGNATURE)), Ok(()));
        assert_eq!(trusted(&[OTHER_KEY, KEY]).verify(ARTIFACT, Some(SIGNATURE)), Ok(()));
        assert_eq!(trusted(&[OTHER_KEY, KEY]).verify(ARTIFACT, Some(OTHER_SIGNATURE)), Ok(()));
        assert_eq!(trusted(&[KEY]).verify(ARTIFACT, Some(&SIGNATURE.replace('\n', "\r\n"))), Ok(()));
    }

    #[test]
    fn an_artifact_that_no_trusted_key_signed_does_not_run() {
        let keys = trusted(&[KEY]);
        assert_eq!(keys.verify(ARTIFACT, None), Err(TrustError::NotSigned));
        assert_eq!(keys.verify(b"another", Some(SIGNATURE)), Err(TrustError::Mismatch(KEY_ID.into())));
        assert_eq!(keys.verify(ARTIFACT, Some(LEGACY)), Err(TrustError::Legacy(KEY_ID.into())));
        let error = keys.verify(ARTIFACT, Some(OTHER_SIGNATURE)).unwrap_err().to_string();
        assert!(error.contains(OTHER_ID) && error.contains(KEY_ID), "{error}");
        // The trusted comment is signed too.
        let reworded = SIGNATURE.replace("counter 1.0.0", "counter 2.0.0");
        assert_eq!(keys.verify(ARTIFACT, Some(&reworded)), Err(TrustError::Mismatch(KEY_ID.into())));
    }

    /// Anybody can create a key with the id of a trusted key.
    #[test]
    fn an_id_proves_nothing() {
        let mut bytes = BASE64_STANDARD.decode(OTHER_KEY).unwrap();
        bytes[2..10].copy_from_slice(&BASE64_STANDARD.decode(KEY).unwrap()[2..10]);
        let impostor = BASE64_STANDARD.encode(bytes);
        let error = TrustError::Mismatch(KEY_ID.into());
        assert_eq!(trusted(&[&impostor]).verify(ARTIFACT, Some(SIGNATURE)), Err(error));
        assert_eq!(trusted(&[&impostor, KEY]).verify(ARTIFACT, Some(SIGNATURE)), Ok(()));
        assert_eq!(trusted(&[KEY, &impostor]).verify(ARTIFACT, Some(SIGNATURE)), Ok(()));
    }

    #[test]
    fn a_changed_signature_is_refused() {
        let keys = trusted(&[KEY]);
        // The first line and the words `trusted comment: ` are not signed.
        let start = SIGNATURE.find('\n').unwrap() + 1;
        for place in start..SIGNATURE.len() {
            let mut changed = SIGNATURE.as_bytes().to_vec();
            changed[place] = if changed[place] == b'A' { b'B' } else { b'A' };
            let changed = String::from_utf8(changed).unwrap();
            assert!(keys.verify(ARTIFACT, Some(&changed)).is_err(), "{place}: {changed}");
        }
        for end in 0..SIGNATURE.trim_end().len() {
            assert!(keys.verify(ARTIFACT, Some(&SIGNATURE[..end])).is_err(), "{end} bytes of it");
        }
        for text in ["", "\n\n\n\n", "RUT9", &SIGNATURE[..150], KEY, &SIGNATURE.replace("trusted", "")] {
            assert_eq!(keys.verify(ARTIFACT, Some(text)), Err(TrustError::Format), "{text}");
        }
    }

    #[test]
    fn a_key_is_given_by_its_line_or_by_its_file() {
        let folder = tempfile::tempdir().unwrap();
        let file = |name: &str, text: &str| {
            let path = folder.path().join(name);
            std::fs::write(&path, text).unwrap();
            path.to_str().unwrap().to_owned()
        };
        let public = file("a.pub", &format!("untrusted comment: minisign public key {KEY_ID}\n{KEY}\n"));
        assert_eq!(trusted(&[&public, OTHER_KEY]).ids(), format!("{KEY_ID}, {OTHER_ID}"));
        let read = |entry: &str| TrustedKeys::read(&[KEY.to_owned(), entry.to_owned()]).unwrap_err().to_string();
        let other = file("artifact.minisig", SIGNATURE);
        assert!(read(&other).contains("is not in the format of minisign's public keys"), "{}", read(&other));
        for entry in ["/nowhere.pub", "", &KEY[1..], SIGNATURE.lines().nth(1).unwrap()] {
            let error = read(entry);
            assert!(error.contains(&format!("{entry:?} is neither")), "{error}");
        }
    }

    #[test]
    fn a_files_signature_is_next_to_it() {
        let folder = tempfile::tempdir().unwrap();
        let artifact = folder.path().join("artifact.wasm");
        let (keys, signature_path) = (trusted(&[KEY]), folder.path().join("artifact.wasm.minisig"));
        assert_eq!(keys.verify_file(&artifact, ARTIFACT), Err(TrustError::NotSigned));
        std::fs::write(&signature_path, SIGNATURE).unwrap();
        assert_eq!(keys.verify_file(&artifact, ARTIFACT), Ok(()));
        std::fs::write(&signature_path, [0xff]).unwrap();
        assert!(matches!(keys.verify_file(&artifact, ARTIFACT), Err(TrustError::Unreadable(..))));
    }
}
