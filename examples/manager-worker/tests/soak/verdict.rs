//! Counts of all tasks at the end, and violations of what was promised for each.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt, fs,
};

use serde_json::Value;

use crate::{
    chaos::Faults,
    lab::Lab,
    load::{ALWAYS, NEVER},
};

/// Counts, and violations in words.
pub(crate) struct Verdict {
    pub(crate) violations: Vec<String>,
    faults: Faults,
    tasks: usize,
    unanswered: usize,
    /// Number of tasks by the way they ended.
    ended: BTreeMap<String, usize>,
    started: usize,
    /// Attempts beyond the first.
    again: u64,
    lost: usize,
}

/// Waits for the end of every task and judges it.
pub(crate) fn of(lab: &Lab, acknowledged: &[String], faults: Faults) -> Verdict {
    let list = || lab.json(&["list", "--limit", "1000000"]).as_array().unwrap().clone();
    let mut verdict = Verdict {
        violations: Vec::new(),
        faults,
        tasks: 0,
        unanswered: 0,
        ended: BTreeMap::new(),
        started: 0,
        again: 0,
        lost: 0,
    };
    for task in list().iter().filter(|task| task["record"]["state"]["phase"] != "finished") {
        let id = task["record"]["id"].as_str().unwrap();
        if name_of(task).starts_with(ALWAYS) {
            lab.orch(&["cancel", id]);
        }
        let waited = lab.orch(&["wait", id, "--timeout", "120s"]);
        if waited.err.contains("not finished") {
            verdict.violations.push(format!("task {id} does not end: {}", lab.orch(&["show", id]).out));
        }
    }
    let tasks = list();
    let known: BTreeSet<&str> = tasks.iter().map(|task| task["record"]["id"].as_str().unwrap()).collect();
    for id in acknowledged.iter().filter(|id| !known.contains(id.as_str())) {
        verdict.violations.push(format!("task {id} was acknowledged and is not known"));
    }
    (verdict.tasks, verdict.unanswered) = (tasks.len(), tasks.len().saturating_sub(acknowledged.len()));
    let mut effects: BTreeMap<String, Vec<String>> = fs::read_dir(lab.path("effects"))
        .unwrap()
        .map(|file| {
            let file = file.unwrap();
            let text = fs::read_to_string(file.path()).unwrap();
            (file.file_name().into_string().unwrap(), text.lines().map(Into::into).collect())
        })
        .collect();
    let mut names = BTreeSet::new();
    for task in &tasks {
        let name = name_of(task);
        if !names.insert(name) {
            verdict.violations.push(format!("one submission of {name} became two tasks"));
        }
        let starts = effects.remove(name).unwrap_or_default();
        verdict.judge(name, task, &starts);
    }
    let strange = effects.keys().map(|name| format!("{name} was started and is no task"));
    verdict.violations.extend(strange);
    verdict
}

fn name_of(task: &Value) -> &str {
    task["record"]["spec"]["name"].as_str().unwrap()
}

impl Verdict {
    fn judge(&mut self, name: &str, task: &Value, starts: &[String]) {
        let status = task["status"].as_str().unwrap();
        let attempts = task["record"]["attempts_made"].as_u64().unwrap();
        let distinct: BTreeSet<&String> = starts.iter().collect();
        *self.ended.entry(status.to_owned()).or_default() += 1;
        self.started += starts.len();
        self.again += attempts.saturating_sub(1);
        let kept = task["record"]["attempts"].as_array().unwrap();
        let lost = kept.iter().filter(|attempt| attempt["end"].to_string().contains("lost")).count();
        self.lost += lost;
        let (is_never, is_always) = (name.starts_with(NEVER), name.starts_with(ALWAYS));
        let wrong = if distinct.len() < starts.len() {
            "an attempt was started twice"
        } else if starts.len() as u64 > attempts {
            "more starts than attempts"
        } else if is_never && starts.len() > 1 {
            "a task that is never restarted was"
        } else if is_always && (status != "cancelled" || starts.len() < 2) {
            "it was not started again until it was cancelled"
        } else if is_always {
            return;
        } else if status == "succeeded" && starts.is_empty() {
            "it succeeded and was not started"
        } else if !is_never && status != "succeeded" {
            "it is restarted and did not succeed"
        } else if lost == 0 && starts.len() != 1 {
            "nothing was lost, and it was not started once"
        } else {
            return;
        };
        self.violations.push(format!("{name}: {wrong}; started {starts:?}, {task}"));
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", self.faults)?;
        write!(
            f,
            "{} tasks ({} submitted without an answer): {:?}; {} starts, {} attempts lost, {} further attempts; \
             {} violations",
            self.tasks,
            self.unanswered,
            self.ended,
            self.started,
            self.lost,
            self.again,
            self.violations.len()
        )
    }
}
