//! Outcome of a vote for a change of members, and its form in replies.

use bytes::Bytes;

use super::membership::MembershipError;

/// Outcome of a vote for a change of members, as every replica decides it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum VoteOutcome {
    /// The vote counts; more are needed.
    Recorded,
    /// The change comes into force.
    Adopted,
    /// The vote does not count.
    Refused(VoteRefusal),
}

/// Reasons why a vote for a change of members does not count.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum VoteRefusal {
    /// The voter is no member.
    #[error("only members vote on members")]
    NotAMember,
    /// Another change was adopted and is not in force yet.
    #[error("another change is not in force yet")]
    ChangeUnderway,
    /// The group cannot have the members that would follow.
    #[error(transparent)]
    Impossible(#[from] MembershipError),
    /// A reason that this version does not know, in the words of the version that wrote it.
    #[error("{0}")]
    Unknown(String),
}

const RECORDED: &[u8] = b"taken down";
const ADOPTED: &[u8] = b"adopted";
const REFUSED: &str = "refused: ";

// Replies are part of the replicated state: their bytes, and so the texts of the errors above and of
// MembershipError, are a format.
impl VoteOutcome {
    /// Its bytes in a reply.
    pub(super) fn to_wire(&self) -> Bytes {
        match self {
            Self::Recorded => Bytes::from_static(RECORDED),
            Self::Adopted => Bytes::from_static(ADOPTED),
            Self::Refused(refusal) => format!("{REFUSED}{refusal}").into(),
        }
    }

    /// Reads what [`VoteOutcome::to_wire`] wrote; none when it did not.
    pub(super) fn from_wire(bytes: &[u8]) -> Option<Self> {
        match bytes {
            RECORDED => Some(Self::Recorded),
            ADOPTED => Some(Self::Adopted),
            _ => {
                let reason = std::str::from_utf8(bytes).ok()?.strip_prefix(REFUSED)?;
                Some(Self::Refused(VoteRefusal::from_wire(reason)))
            }
        }
    }
}

impl VoteRefusal {
    fn from_wire(reason: &str) -> Self {
        let constant = [
            Self::NotAMember,
            Self::ChangeUnderway,
            MembershipError::Empty.into(),
            MembershipError::TooMany.into(),
        ];
        if let Some(known) = constant.into_iter().find(|known| known.to_string() == reason) {
            return known;
        }
        let named = |error: fn(String) -> MembershipError| {
            let suffix = error(String::new()).to_string();
            reason.strip_suffix(suffix.as_str()).map(|name| error(name.to_owned()).into())
        };
        named(MembershipError::Twice)
            .or_else(|| named(MembershipError::Unknown))
            .unwrap_or_else(|| Self::Unknown(reason.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pbft::core::membership::REPLICAS_MAX;

    #[test]
    fn the_form_of_outcomes_is_pinned_and_read_back() {
        let refused = |refusal: VoteRefusal| VoteOutcome::Refused(refusal);
        let all = [
            (VoteOutcome::Recorded, "taken down".to_owned()),
            (VoteOutcome::Adopted, "adopted".into()),
            (refused(VoteRefusal::NotAMember), "refused: only members vote on members".into()),
            (refused(VoteRefusal::ChangeUnderway), "refused: another change is not in force yet".into()),
            (refused(MembershipError::Empty.into()), "refused: a group needs at least one member".into()),
            (
                refused(MembershipError::TooMany.into()),
                format!("refused: a group has at most {REPLICAS_MAX} members"),
            ),
            (
                refused(MembershipError::Twice("is no member".into()).into()),
                "refused: is no member is a member already".into(),
            ),
            (refused(MembershipError::Unknown("r7".into()).into()), "refused: r7 is no member".into()),
            (refused(VoteRefusal::Unknown("the moon is full".into())), "refused: the moon is full".into()),
        ];
        for (outcome, form) in all {
            assert_eq!(outcome.to_wire(), form.as_bytes());
            assert_eq!(VoteOutcome::from_wire(form.as_bytes()), Some(outcome));
        }
    }

    #[test]
    fn what_is_no_outcome_of_a_vote_is_none() {
        for bytes in [&b""[..], b"adopted!", b"outcome of a command", b"refused: \xff"] {
            assert_eq!(VoteOutcome::from_wire(bytes), None);
        }
    }
}
