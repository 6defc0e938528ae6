//! Files of identities.

use std::{fs, os::unix::fs::PermissionsExt as _};

use orch_net::p2p::{Identity, IdentityError};

#[test]
fn a_file_is_written_for_its_owner_and_read_again() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("identity.pem");
    let made = Identity::load_or_generate(&path).unwrap();
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    assert_eq!(Identity::load(&path).unwrap().peer_id(), made.peer_id());
    assert_eq!(Identity::load_or_generate(&path).unwrap().peer_id(), made.peer_id());
    let error = made.save(&path).unwrap_err();
    assert!(matches!(error, IdentityError::File { .. }), "an existing key is not overwritten: {error}");
}

#[test]
fn a_file_that_others_can_open_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("identity.pem");
    Identity::from_seed(&[1; 32]).save(&path).unwrap();
    for mode in [0o640, 0o604, 0o620, 0o644] {
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        let error = Identity::load(&path).unwrap_err();
        assert!(error.to_string().contains(&format!("mode {mode:o}")), "{error}");
        assert!(matches!(error, IdentityError::Exposed { .. }));
    }
    fs::set_permissions(&path, fs::Permissions::from_mode(0o400)).unwrap();
    Identity::load(&path).unwrap();
}

#[test]
fn keys_of_other_programs_are_read_and_other_files_refused() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("identity.pem");
    let write = |text: &str| {
        let _ = fs::remove_file(&path);
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
    };
    // With its public key, as version 2 of the form has it.
    let key = rcgen::KeyPair::generate_for(&rcgen::PKCS_ED25519).unwrap();
    write(&key.serialize_pem());
    assert_eq!(Identity::load(&path).unwrap().peer_id().as_bytes(), key.public_key_raw());
    let other = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).unwrap();
    for text in ["", "no key", &other.serialize_pem()] {
        write(text);
        let error = Identity::load(&path).unwrap_err();
        assert!(matches!(error, IdentityError::NotAKey { .. }), "{error}");
    }
}

#[test]
fn the_secret_is_not_shown() {
    let seed = [0xAB; 32];
    let identity = Identity::from_seed(&seed);
    let text = format!("{identity:?} {identity:#?}");
    assert!(!text.to_lowercase().contains("abab") && !text.contains("171"), "{text}");
    assert_eq!(identity.clone().peer_id(), Identity::from_seed(&seed).peer_id());
}
