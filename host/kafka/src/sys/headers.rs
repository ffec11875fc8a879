//! Headers whose names are bytes.

use std::ffi::CStr;
use std::ptr;

use rdkafka::message::{BorrowedHeaders, OwnedHeaders};
use rdkafka::types::RDKafkaRespErr;
use rdkafka_sys as rdsys;
use switchboard_core::record::Headers;

/// The headers of a consumed record. rdkafka's own getter panics at a name that is not UTF-8, and one faulty producer is enough to
/// write such a name.
pub(crate) fn read_headers(headers: &BorrowedHeaders) -> Headers {
    let native = ptr::from_ref(headers).cast::<rdsys::rd_kafka_headers_t>();
    let mut read = Headers::with_capacity(8, 256);
    loop {
        let mut name = ptr::null();
        let mut value = ptr::null();
        let mut size = 0;
        // SAFETY: a `&BorrowedHeaders` is the address of a live `rd_kafka_headers_t` (this is how rdkafka makes it), and the out
        // pointers are valid for writes.
        let result =
            unsafe { rdsys::rd_kafka_header_get_all(native, read.len(), &raw mut name, &raw mut value, &raw mut size) };
        if result != RDKafkaRespErr::RD_KAFKA_RESP_ERR_NO_ERROR {
            return read;
        }
        // SAFETY: on success the name is a C string. The headers own it and outlive this iteration.
        let name = unsafe { CStr::from_ptr(name) }.to_bytes();
        let value = (!value.is_null()).then(|| {
            // SAFETY: on success a value that is not null has `size` bytes. The headers own it and outlive this iteration.
            unsafe { std::slice::from_raw_parts(value.cast::<u8>(), size) }
        });
        read.push(name, value);
    }
}

/// Headers to send, with names as bytes.
pub(crate) fn write_headers(headers: &Headers) -> OwnedHeaders {
    let owned = OwnedHeaders::new_with_capacity(headers.len());
    let native = ptr::from_ref(owned.as_borrowed()).cast_mut().cast::<rdsys::rd_kafka_headers_t>();
    for header in headers.iter() {
        let (value, size) = match header.value {
            // A dangling pointer with size 0 is an empty value; only a null pointer is a null.
            Some(value) => (value.as_ptr().cast(), value.len()),
            None => (ptr::null(), 0),
        };
        // SAFETY: `native` is the headers object that `owned` owns and nobody else has seen. librdkafka copies name and value, whose
        // lengths are given. Slices have at most isize::MAX bytes.
        let result = unsafe {
            rdsys::rd_kafka_header_add(
                native,
                header.name.as_ptr().cast(),
                header.name.len().cast_signed(),
                value,
                size.cast_signed(),
            )
        };
        assert_eq!(result, RDKafkaRespErr::RD_KAFKA_RESP_ERR_NO_ERROR, "adding to headers of our own cannot fail");
    }
    owned
}
