use crate::record::TenantId;

/// A record of the changelog whose key was not written by Switchboard.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("the changelog is Switchboard's own, but a record's key is not `tenant 0x00 key` in UTF-8")]
pub struct CorruptKey;

/// The changelog's key of a tenant's entry: tenant, 0x00, the entry's key. A tenant's text has no 0x00; an entry's key
/// that starts with one is the host's own.
pub fn encode_key(tenant: &TenantId, key: &str) -> Vec<u8> {
    [tenant.as_str().as_bytes(), &[0], key.as_bytes()].concat()
}

/// The inverse of `encode_key`.
///
/// # Errors
/// When the bytes are no such key.
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
