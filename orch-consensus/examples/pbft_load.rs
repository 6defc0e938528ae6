//! Throughput of a group in one process, in commands a second: `pbft_load MEMBERS CALLERS SECONDS
//! [DIRECTORY]`.
//!
//! All callers are at the primary and each waits for its answer before it asks again. With a directory, each
//! member keeps its log there and syncs it. What is measured is one machine that does the work of all
//! members.

#![expect(clippy::print_stdout, reason = "it is what this program is for")]

use std::{
    error::Error,
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use orch_consensus::pbft::{Ed25519Signer, PbftConfig, PbftConsensus, Signer, View};
use orch_core::{
    consensus::Consensus,
    testkit::Counter,
    transport::{InProcessConfig, InProcessNetwork},
};
use tokio::task::JoinSet;

const COMMAND_BYTES: usize = 64;

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let usage = "pbft_load MEMBERS CALLERS SECONDS [DIRECTORY]";
    let mut number = || arguments.next().and_then(|text| text.parse::<u64>().ok()).ok_or(usage);
    let (members, callers, seconds) = (number()?, number()?, number()?);
    let directory = arguments.next();

    let network = InProcessNetwork::new(InProcessConfig {
        queue_messages: 16_384.try_into()?,
        ..InProcessConfig::default()
    });
    let mut signers = Vec::new();
    for member in 0..members {
        signers.push(Ed25519Signer::from_seed(&[u8::try_from(member + 1)?; 32]));
    }
    let names =
        signers.iter().enumerate().map(|(number, signer)| (format!("member-{number}"), signer.peer()));
    let config = PbftConfig::new("load", names);
    let first = config.genesis()?.primary(View(0)).key;
    let (mut group, mut primary) = (Vec::new(), None);
    for (number, signer) in signers.into_iter().enumerate() {
        let (transport, leads) = (network.join(signer.peer()), signer.public_key() == first);
        let config = match &directory {
            Some(path) => config.clone().durable(Path::new(path).join(number.to_string())),
            None => config.clone(),
        };
        let member = Arc::new(PbftConsensus::new(config, Arc::new(signer), Arc::new(transport))?);
        member.start(Box::new(Counter::default())).await?;
        if leads {
            primary = Some(member.clone());
        }
        group.push(member);
    }
    let primary = primary.ok_or("no member leads")?;
    let (warm, end) =
        (Instant::now() + Duration::from_secs(1), Instant::now() + Duration::from_secs(1 + seconds));
    let mut running = JoinSet::new();
    for _ in 0..callers {
        let primary = primary.clone();
        running.spawn(async move {
            let command = Bytes::from(vec![7; COMMAND_BYTES]);
            let (mut count, mut slowest) = (0_u64, Duration::ZERO);
            loop {
                let begun = Instant::now();
                if begun >= end {
                    return Ok::<_, orch_core::consensus::ConsensusError>((count, slowest));
                }
                primary.propose(command.clone()).await?;
                if begun >= warm {
                    count += 1;
                    slowest = slowest.max(begun.elapsed());
                }
            }
        });
    }
    let (mut count, mut slowest) = (0, Duration::ZERO);
    while let Some(done) = running.join_next().await {
        let (of_caller, of_slowest) = done??;
        count += of_caller;
        slowest = slowest.max(of_slowest);
    }
    let batches = primary.status().applied;
    println!(
        "{members} members, {callers} callers: {} commands/s, slowest {slowest:?}, {batches} batches",
        count / seconds
    );
    for member in group {
        member.shutdown().await;
    }
    Ok(())
}
