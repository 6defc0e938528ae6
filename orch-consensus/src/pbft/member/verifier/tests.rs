use curve25519_dalek::{constants::EIGHT_TORSION, edwards::EdwardsPoint};
use proptest::prelude::*;

use super::*;
use crate::pbft::core::{
    ids::{Epoch, Seq, View},
    statement::{Phase, Statement},
};
use crate::pbft::member::signer::{Ed25519Signer, Signer};

const GROUP: Digest = Digest([5; 32]);

fn statement(number: u64) -> Statement {
    Statement::Vote {
        phase: Phase::Commit,
        epoch: Epoch(0),
        view: View(1),
        seq: Seq(number),
        digest: Digest([9; 32]),
    }
}

/// Manipulation of a signature.
#[derive(Clone, Copy, Debug)]
enum Craft {
    Honest,
    /// One bit is another.
    Flipped(u16),
    /// Over something else.
    OtherStatement,
    /// `s` plus the order of the group.
    LargeS,
    /// The key and R are points of small order, s is 0: good for every message by this rule.
    SmallOrder(u8, u8),
    /// R has a component of small order: good by this rule, refused by the cofactorless one.
    MixedR(u8),
    /// The key has a component of small order.
    MixedKey(u8),
    /// An encoding of no point.
    NoPoint,
    /// A point whose y is not reduced.
    NotCanonical,
}

impl Craft {
    fn is_good(self) -> bool {
        match self {
            Self::Honest
            | Self::SmallOrder(..)
            | Self::MixedR(_)
            | Self::MixedKey(_)
            | Self::NotCanonical => true,
            Self::Flipped(_) | Self::OtherStatement | Self::LargeS | Self::NoPoint => false,
        }
    }

    fn make(self, number: u64, signer: u8) -> Claim {
        let honest = Ed25519Signer::from_seed(&[signer; 32]);
        let statement = statement(number);
        let signature = honest.sign(&statement.bytes(&GROUP));
        let claim = Claim { key: honest.public_key(), statement, signature };
        let secret = Scalar::from_bytes_mod_order([signer | 1; 32]);
        let torsion = |index: u8| EIGHT_TORSION[usize::from(index % 8)];
        match self {
            Self::Honest => claim,
            Self::Flipped(bit) => {
                let mut changed = claim;
                changed.signature.0[usize::from(bit) / 8 % 64] ^= 1 << (bit % 8);
                changed
            }
            Self::OtherStatement => Claim { statement: self::statement(number + 1), ..claim },
            Self::LargeS => {
                let mut changed = claim;
                add_order(&mut changed.signature.0[32..]);
                changed
            }
            Self::SmallOrder(key, r) => {
                let mut signature = [0; 64];
                signature[..32].copy_from_slice(&torsion(r).compress().0);
                Claim {
                    key: PublicKey(torsion(key).compress().0),
                    statement,
                    signature: Signature(signature),
                }
            }
            Self::MixedR(index) => sign_with(secret, EdwardsPoint::default(), torsion(index), statement),
            Self::MixedKey(index) => sign_with(secret, torsion(index), EdwardsPoint::default(), statement),
            Self::NoPoint => {
                let mut changed = claim;
                let no_point = (0..=255).map(|byte| {
                    let mut encoding = [7; 32];
                    encoding[0] = byte;
                    encoding
                });
                let encoding =
                    no_point.into_iter().find(|bytes| CompressedEdwardsY(*bytes).decompress().is_none());
                changed.signature.0[..32].copy_from_slice(&encoding.expect("half of all are none"));
                changed
            }
            Self::NotCanonical => {
                // y = p + 1 stands for y = 1, the identity.
                let mut identity = [0xff; 32];
                (identity[0], identity[31]) = (0xee, 0x7f);
                let mut signature = [0; 64];
                signature[..32].copy_from_slice(&identity);
                Claim { key: PublicKey(identity), statement, signature: Signature(signature) }
            }
        }
    }
}

/// Signs with points of small order added to the key and to R.
fn sign_with(secret: Scalar, to_key: EdwardsPoint, to_r: EdwardsPoint, statement: Statement) -> Claim {
    let nonce = Scalar::from_bytes_mod_order([77; 32]);
    let key = (EdwardsPoint::mul_base(&secret) + to_key).compress().0;
    let r = (EdwardsPoint::mul_base(&nonce) + to_r).compress().0;
    let hash =
        Sha512::new().chain_update(r).chain_update(key).chain_update(statement.bytes(&GROUP)).finalize();
    let s = nonce + Scalar::from_bytes_mod_order_wide(&hash.into()) * secret;
    let mut signature = [0; 64];
    signature[..32].copy_from_slice(&r);
    signature[32..].copy_from_slice(s.as_bytes());
    Claim { key: PublicKey(key), statement, signature: Signature(signature) }
}

fn add_order(s: &mut [u8]) {
    let order = (-Scalar::ONE).to_bytes();
    let mut carry = 1_u16;
    for (byte, of_order) in s.iter_mut().zip(order) {
        carry += u16::from(*byte) + u16::from(of_order);
        *byte = carry.to_le_bytes()[0];
        carry >>= 8;
    }
}

fn craft() -> impl Strategy<Value = Craft> {
    prop_oneof![
        4 => Just(Craft::Honest),
        1 => (0..512_u16).prop_map(Craft::Flipped),
        1 => Just(Craft::OtherStatement),
        1 => Just(Craft::LargeS),
        1 => (0..8_u8, 0..8_u8).prop_map(|(key, r)| Craft::SmallOrder(key, r)),
        1 => (0..8_u8).prop_map(Craft::MixedR),
        1 => (0..8_u8).prop_map(Craft::MixedKey),
        1 => Just(Craft::NoPoint),
        1 => Just(Craft::NotCanonical),
    ]
}

fn verifier(members: u8) -> Verifier {
    Verifier::new(GROUP, (0..members).map(|seed| Ed25519Signer::from_seed(&[seed; 32]).public_key()))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn many_together_are_judged_as_each_alone(crafts in proptest::collection::vec((craft(), 0..6_u8), 0..24)) {
        let claims: Vec<_> = (0_u64..).zip(&crafts).map(|(number, (craft, signer))| craft.make(number, *signer)).collect();
        let expected: Vec<_> = (0..crafts.len()).filter(|index| !crafts[*index].0.is_good()).collect();
        // Four of the six signers are members, whose tables are kept.
        prop_assert_eq!(verifier(4).bad(&claims), expected.clone());
        prop_assert_eq!(verifier(0).bad(&claims), expected);
        for (claim, (craft, _)) in claims.iter().zip(&crafts) {
            let bytes = claim.statement.bytes(&GROUP);
            prop_assert_eq!(verify(&claim.key, &bytes, &claim.signature), craft.is_good(), "{:?}", craft);
        }
    }

    #[test]
    fn anything_at_all_is_judged_alike(raw in proptest::collection::vec(any::<([u8; 32], [u8; 32], [u8; 32])>(), 1..8)) {
        let claims: Vec<_> = raw.iter().map(|(key, r, s)| {
            let mut signature = [0; 64];
            signature[..32].copy_from_slice(r);
            signature[32..].copy_from_slice(s);
            Claim { key: PublicKey(*key), statement: statement(1), signature: Signature(signature) }
        }).collect();
        let single = |claim: &Claim| verify(&claim.key, &claim.statement.bytes(&GROUP), &claim.signature);
        let expected: Vec<_> = (0..claims.len()).filter(|index| !single(&claims[*index])).collect();
        prop_assert_eq!(verifier(1).bad(&claims), expected);
    }
}

#[test]
fn one_bad_one_among_many_is_named() {
    let mut claims: Vec<_> = (0..200).map(|number| Craft::Honest.make(number, 2)).collect();
    assert_eq!(verifier(4).bad(&claims), Vec::<usize>::new());
    claims[137].signature.0[3] ^= 1;
    assert_eq!(verifier(4).bad(&claims), [137]);
}

fn hex(text: &str) -> Vec<u8> {
    let digits: Vec<_> =
        text.chars().map(|digit| u8::try_from(digit.to_digit(16).unwrap()).unwrap()).collect();
    digits.chunks(2).map(|pair| pair[0] << 4 | pair[1]).collect()
}

/// RFC 8032, 7.1, tests 1 to 3.
#[test]
fn the_vectors_of_the_standard_hold() {
    let vectors = [
        (
            "9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60",
            "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a",
            "",
            "e5564300c360ac729086e2cc806e828a84877f1eb8e5d974d873e065224901555fb8821590a33bacc61e39701cf9b46bd25bf5f0595bbe24655141438e7a100b",
        ),
        (
            "4ccd089b28ff96da9db6c346ec114e0f5b8a319f35aba624da8cf6ed4fb8a6fb",
            "3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c",
            "72",
            "92a009a9f0d4cab8720e820b5f642540a2b27b5416503f8fb3762223ebdb69da085ac1e43e15996e458f3613d0f11d8c387b2eaeb4302aeeb00d291612bb0c00",
        ),
        (
            "c5aa8df43f9f837bedb7442f31dcb7b166d38535076f094b85ce3a2e0b4458f7",
            "fc51cd8e6218a1a38da47ed00230f0580816ed13ba3303ac5deb911548908025",
            "af82",
            "6291d657deec24024827e69c3abe01a30ce548a284743a445e3680d7db5ac3ac18ff9b538d16f290ae67f760984dc6594a7c15e9716ed28dc027beceea1ec40a",
        ),
    ];
    for (seed, key, message, signature) in vectors {
        let signer = Ed25519Signer::from_seed(&hex(seed).try_into().unwrap());
        let (key, message) = (PublicKey(hex(key).try_into().unwrap()), hex(message));
        let signature = Signature(hex(signature).try_into().unwrap());
        assert_eq!(signer.public_key(), key);
        assert_eq!(signer.sign(&message), signature);
        assert!(verify(&key, &message, &signature));
        assert!(!verify(&key, b"another message", &signature));
    }
}
