releases::tagged!("2.0.0");
