//! The keys of the changelog.

use crate::record::TenantId;

/// A changelog record whose key Switchboard did not write.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error(
    "a key of the changelog is not `tenant 0x00 key` in UTF-8: Switchboard did not write it, and nothing else may produce there"
)]
pub struct CorruptKey;

/// The changelog's key for an entry of a tenant: the tenant, 0x00, the entry's key. The text of a tenant has no 0x00.
/// An entry whose key starts with 0x00 is the host's own.
pub fn encode_key(tenant: &TenantId, key: &str) -> Vec<u8> {
    [tenant.as_str().as_bytes(), &[0], key.as_bytes()].concat()
}

/// Decodes a key of the changelog into the tenant and the entry's key.
///
/// # Errors
/// If Switchboard did not write the key.
pub fn decode_key(bytes: &[u8]) -> Result<(&str, &str), CorruptKey> {
    let text = std::str::from_utf8(bytes).map_err(|_| CorruptKey)?;
    text.split_once('\0').ok_or(CorruptKey)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_come_back_as_they_were() {
        for (tenant, key) in [("", "a"), ("t/GMS/1/1", "\0version"), ("t", "a\0b"), ("t", "")] {
            assert_eq!(decode_key(&encode_key(&TenantId::new(tenant), key)), Ok((tenant, key)));
        }
        assert_eq!(decode_key(b"no separator"), Err(CorruptKey));
        assert_eq!(decode_key(b"t\0\xff"), Err(CorruptKey));
    }
}
