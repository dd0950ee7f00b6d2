//! `u2pl-engine bench --peer`: the engine against PyTorch, operation by operation.

use std::path::Path;
use std::time::Duration;

use serde_json::{Value, json};

use super::common::{emit, emit_json};
use super::device::Place;
use super::versus::{check_repeats, peer_place, start_engine, turns};
use crate::Result;
use crate::bench::Case;
use crate::bench::versus::report::{self, Row};
use crate::bench::versus::scripts::{Folder, Python};
use crate::bench::versus::side::Side;
use crate::bench::versus::turns::{Measured, Turns};
use crate::bench::versus::work::{self, Variant};

/// `bench --peer`: single operations.
pub(super) struct Operations<'a> {
    /// Arguments that choose the recipe.
    pub(super) recipe: Vec<String>,
    /// Cases to measure.
    pub(super) cases: Vec<Case>,
    pub(super) device: &'a Place,
    pub(super) precision: &'static str,
    pub(super) repeats: usize,
    pub(super) json: Option<&'a Path>,
}

impl Operations<'_> {
    /// Measures every case on every side and prints its row as it comes.
    pub(super) fn run(&self, python: &Path) -> anyhow::Result<()> {
        check_repeats(self.repeats)?;
        let python = Python::new(python)?;
        let place = peer_place(self.device, self.precision)?;
        let folder = Folder::new()?;
        let log = folder.file("engine.log");
        let mut sides = vec![start_engine(
            self.device,
            self.precision,
            &self.recipe,
            log,
        )?];
        let variants = work::operation_variants(&place);
        for (i, Variant { name, .. }) in variants.iter().enumerate() {
            let log = format!("{}{i}.log", name.replace(' ', "-"));
            sides.push(python.start(&folder, &variants[i], &log)?);
        }
        let turns = Turns {
            warmup: 2,
            pause: Duration::from_millis(if place.cuda { 0 } else { 20 }),
            span_ms: if place.cuda { 10.0 } else { 60.0 },
            most: 512,
            ..turns(&place, self.repeats)
        };
        let names: Vec<&str> = sides.iter().map(Side::name).collect();
        emit(&format!(
            "{}, {} threads, {}, {} turns a side\n{}",
            names.join(" | "),
            place.threads,
            self.precision,
            self.repeats,
            report::operations_header()
        ))?;
        let ready: Vec<Value> = sides.iter().map(|s| s.ready().clone()).collect();
        let mut rows = Vec::new();
        for case in &self.cases {
            let row = self.row(case, &mut sides, &turns)?;
            emit(&row.line())?;
            rows.push(row);
            if let Some(path) = self.json {
                let rows: Vec<Value> = rows.iter().map(row_json).collect();
                let whole = json!({
                    "precision": self.precision,
                    "threads": place.threads,
                    "repeats": self.repeats,
                    "recipe": self.recipe,
                    "sides": ready,
                    "cases": rows,
                });
                emit_json(path, &whole)?;
            }
        }
        emit(&report::operations_sums(&rows))
    }

    fn row(&self, case: &Case, sides: &mut [Side], turns: &Turns) -> Result<Row> {
        let mut request = json!({ "case": case });
        let mut outcomes = Vec::new();
        for side in sides.iter_mut() {
            let answer = side.ask(&request)?;
            if let Some(copies) = answer["ready"]["copies"].as_u64() {
                request["copies"] = json!(copies);
            }
            outcomes.push(match answer["unavailable"].as_str() {
                Some(reason) => Err(reason.to_string()),
                None => Ok(()),
            });
        }
        let ready = sides.iter_mut().zip(&outcomes);
        let mut running: Vec<&mut Side> =
            ready.filter_map(|(s, o)| o.is_ok().then_some(s)).collect();
        let mut times = turns.take(&mut running, &mut |_, _, _| ()).into_iter();
        let measured = outcomes.into_iter().enumerate().map(|(i, outcome)| {
            let mut m = Measured::missing(sides[i].name(), i == 0, self.precision, String::new());
            m.outcome = match outcome {
                Ok(()) => times.next().unwrap_or_else(|| Err("never ran".into())),
                Err(reason) => Err(reason),
            };
            m
        });
        Ok(Row {
            name: case.name.clone(),
            kind: case.kind.into(),
            calls: case.count("U2PL step").max(case.count("warm-up step")) as u64,
            flops: case.cost().flops,
            sides: measured.collect(),
        })
    }
}

fn row_json(row: &Row) -> Value {
    let sides: Vec<Value> = row.sides.iter().map(Measured::json).collect();
    json!({"case": row.name, "kind": row.kind, "calls": row.calls, "flops": row.flops, "sides": sides})
}
