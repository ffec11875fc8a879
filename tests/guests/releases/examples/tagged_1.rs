releases::tagged!("1.0.0");
