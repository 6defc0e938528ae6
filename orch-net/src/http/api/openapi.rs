//! The API's description, OpenAPI 3.1, made from the table of routes.

use axum::{Json as Answer, extract::State};
use orch_core::state::TaskStatus;
use serde_json::{Map, Value, json};

use super::{app::App, problems::kinds, routes};
use crate::http::shell::{Access, Operation, Role, Verb};

/// `GET /openapi.json`.
pub(super) async fn show(State(app): State<App>) -> Answer<Value> {
    Answer(document(routes::table(&app.shell).operations()))
}

fn document(operations: &[Operation]) -> Value {
    let mut paths = Map::new();
    for operation in operations {
        let path = paths.entry(operation.path).or_insert_with(|| json!({}));
        let verb = match operation.method {
            Verb::Get => "get",
            Verb::Post => "post",
            Verb::Put => "put",
            Verb::Delete => "delete",
        };
        path[verb] = describe(operation);
    }
    let codes: Vec<&str> = kinds::SHELL.iter().chain(kinds::ENGINE).map(|kind| kind.code).collect();
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "orch",
            "version": env!("CARGO_PKG_VERSION"),
            "description": "Tasks on nodes. Every refusal and failure is application/problem+json (RFC 9457) with a stable code.",
            "license": { "name": "MIT OR Apache-2.0", "identifier": "MIT OR Apache-2.0" },
        },
        "paths": paths,
        "components": {
            "securitySchemes": {
                "admin": { "type": "http", "scheme": "bearer", "description": "Opens everything." },
                "worker": { "type": "http", "scheme": "bearer", "description": "Opens the protocol of workers." },
            },
            "schemas": schemas(&codes),
        },
    })
}

fn describe(operation: &Operation) -> Value {
    let (status, media, schema) = operation.answer;
    let mut answer = json!({ "description": "It went well." });
    if !media.is_empty() {
        answer["content"] = json!({ media: { "schema": reference(schema) } });
    }
    let problem = json!({
        "description": "It did not.",
        "content": { "application/problem+json": { "schema": reference("Problem") } },
    });
    let mut parameters: Vec<Value> = operation
        .query
        .iter()
        .map(|(name, meaning)| {
            json!({ "name": name, "in": "query", "description": meaning, "schema": { "type": "string" } })
        })
        .collect();
    if operation.path.contains("{id}") {
        parameters
            .push(json!({ "name": "id", "in": "path", "required": true, "schema": { "type": "string" } }));
    }
    if operation.body == Some("Submission") {
        parameters.push(json!({
            "name": "Idempotency-Key", "in": "header",
            "description": "names the submission, so that a repeated one is carried out once",
            "schema": { "type": "string", "format": "uuid" },
        }));
    }
    let mut described = json!({
        "summary": operation.summary,
        "parameters": parameters,
        "responses": { status.to_string(): answer, "default": problem },
        "security": match operation.access {
            Access::Anyone => json!([]),
            Access::LocalOrAdmin => json!([{}, { "admin": [] }]),
            Access::Role(Role::Admin) => json!([{ "admin": [] }]),
            Access::Role(Role::Worker) => json!([{ "admin": [] }, { "worker": [] }]),
        },
    });
    if let Some(body) = operation.body {
        described["requestBody"] =
            json!({ "required": true, "content": { "application/json": { "schema": reference(body) } } });
    }
    described
}

fn reference(schema: &str) -> Value {
    json!({ "$ref": format!("#/components/schemas/{schema}") })
}

/// Names and shapes of what is sent. The parts of a task's spec and record are described by
/// `docs/task-model.md`.
fn schemas(codes: &[&str]) -> Value {
    let object = |properties: Value, required: &[&str]| json!({ "type": "object", "properties": properties, "required": required });
    let list = |schema: &str| json!({ "type": "array", "items": reference(schema) });
    let text = json!({ "type": "string" });
    let number = json!({ "type": "integer", "minimum": 0 });
    let uuid = json!({ "type": "string", "format": "uuid" });
    let open = |what: &str| json!({ "type": "object", "description": what });
    json!({
        "Anything": {},
        "Text": text,
        "Problem": object(json!({
            "type": text, "code": { "type": "string", "enum": codes }, "title": text, "status": number,
            "detail": text, "field": text,
        }), &["type", "code", "title", "status", "detail"]),
        "TaskSpec": {
            "type": "object",
            "description": "what to run: name, workload and many optional fields",
            "required": ["name", "workload"],
            "example": {
                "name": "hello", "workload": { "kind": "image", "image": "busybox" }, "args": ["echo", "hello"],
            },
        },
        "Submission": { "oneOf": [reference("TaskSpec"), reference("TaskList")] },
        "TaskList": object(json!({ "tasks": list("NewTask") }), &["tasks"]),
        "NewTask": object(json!({
            "id": { "type": "string", "format": "uuid", "description": "made up where none is given" },
            "spec": reference("TaskSpec"),
        }), &["spec"]),
        "Submitted": object(json!({ "tasks": list("TaskInfo") }), &["tasks"]),
        "TaskPage": object(json!({
            "tasks": list("TaskInfo"), "next": { "type": ["integer", "null"] }, "total": number,
        }), &["tasks"]),
        "TaskInfo": object(json!({
            "status": { "type": "string", "enum": TaskStatus::ALL },
            "record": open("what was decided about the task"),
            "observed": open("what was seen of its current attempt"),
            "explanation": reference("Explanation"),
        }), &["status", "record"]),
        "Explanation": object(json!({
            "text": text, "task": uuid, "never": { "type": "boolean" }, "nodes": number,
            "objections": { "type": "object", "additionalProperties": number }, "hint": text,
        }), &["text", "task", "never", "nodes", "objections"]),
        "Explained": object(json!({
            "status": text, "explanation": { "oneOf": [reference("Explanation"), { "type": "null" }] },
        }), &["status", "explanation"]),
        "Cancellation": object(json!({ "reason": text }), &[]),
        "Drain": object(json!({ "grace_ms": number }), &["grace_ms"]),
        "Decided": object(json!({
            "outcome": { "type": "string", "enum": ["done", "unchanged"] },
        }), &["outcome"]),
        "NodeInfo": object(json!({
            "record": open("what is known about the node"), "tasks": number, "free_cpu_millis": number,
            "free_memory_bytes": number,
        }), &["record", "tasks", "free_cpu_millis", "free_memory_bytes"]),
        "NodeList": object(json!({ "nodes": list("NodeInfo") }), &["nodes"]),
        "StatusInfo": object(json!({
            "version": text, "revision": number,
            "tasks": { "type": "object", "additionalProperties": number },
            "consensus": open("how agreement goes"), "scheduler_error": text,
        }), &["version", "revision", "tasks", "consensus"]),
        "Registration": object(json!({
            "spec": open("what a node says about itself"), "incarnation": uuid,
            "held": { "type": "array", "items": text },
        }), &["spec", "incarnation"]),
        "Session": object(json!({ "node": text, "incarnation": uuid, "number": number }), &["node", "incarnation", "number"]),
        "Registered": object(json!({
            "session": reference("Session"), "revision": number, "heartbeat_interval_ms": number,
        }), &["session", "revision", "heartbeat_interval_ms"]),
        "Heartbeat": object(json!({ "session": reference("Session") }), &["session"]),
        "Question": object(json!({
            "session": reference("Session"), "seen": number, "specs_after": text,
            "after": object(json!({ "epoch": number, "position": number }), &["epoch", "position"]),
        }), &["session", "seen"]),
        "Assignments": open("what a worker should do"),
        "Reports": object(json!({
            "session": reference("Session"), "reports": { "type": "array", "items": open("a report") },
        }), &["session", "reports"]),
        "Reported": object(json!({
            "revision": number,
            "answers": { "type": "array", "items": { "type": "string", "enum": ["accepted", "stale"] } },
        }), &["revision", "answers"]),
        "Observations": object(json!({
            "session": reference("Session"), "observations": { "type": "array", "items": open("an observation") },
        }), &["session", "observations"]),
    })
}
