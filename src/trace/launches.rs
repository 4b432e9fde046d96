//! A trace of PyTorch's profiler as a profile.
//!
//! Operators run within operators (`aten::linear` calls `aten::addmm`). An operation's time is its own,
//! without what ran within it; a group's count leaves out what ran within another of the group; and what
//! no name tells belongs to what it ran within. So no time is counted twice.

use std::collections::HashMap;

use super::file::TraceError;
use super::operators::{direction, group};
use super::profile::{Given, Group, Operation, Profile, Total};
use super::pytorch::{Category, Event, Events};

impl Profile {
    /// The profile of a trace of PyTorch's.
    ///
    /// # Errors
    /// If it has no operators or kernels.
    pub fn of_pytorch(mut trace: Events, given: Given) -> Result<Self, TraceError> {
        // What encloses stands before what it encloses.
        trace
            .events
            .sort_by_key(|event| (event.thread, event.begin, std::cmp::Reverse(event.end)));
        let annotated = Annotated::new(&trace.events);
        let has_device = trace
            .events
            .iter()
            .any(|event| event.category == Category::Kernel);
        let mut tally = Tally::new(&trace.names, has_device);
        let counted: Vec<Event> = (trace.events.iter())
            .filter(|event| event.category != Category::Step && annotated.counts(event))
            .copied()
            .collect();
        if counted.is_empty() {
            let what = "it has no operators and no kernels in its steps";
            return Err(TraceError::Empty(what.into()));
        }
        for thread in counted.chunk_by(|a, b| a.thread == b.thread) {
            tally.thread(thread);
        }
        let span = || {
            let begin = counted.iter().map(|event| event.begin).min().unwrap_or(0);
            let end = counted.iter().map(|event| event.end).max().unwrap_or(0);
            (end - begin) as u64
        };
        let mut profile = Self {
            about: match has_device {
                true => "PyTorch on a device".into(),
                false => "PyTorch on the CPU".into(),
            },
            steps: given.steps.or(annotated.count()),
            layers: given.layers,
            tokens: given.tokens,
            nanoseconds: match annotated.count() {
                Some(_) => annotated.nanoseconds(),
                None => span(),
            },
            groups: tally.groups(),
            operations: tally.operations(),
            notes: Vec::new(),
        };
        profile.complete(given, annotated.count());
        Ok(profile)
    }

    /// Steps, layers and tokens, where they weren't given.
    fn complete(&mut self, given: Given, annotated: Option<u64>) {
        if let (Some(found), Some(given)) = (annotated, given.steps)
            && found != given
        {
            self.notes.push(format!(
                "{given} steps were given; the profiler marked {found}, and only what is in those is counted"
            ));
        }
        let attention = self.count(Group::Attention);
        if let (None, Some(layers)) = (self.steps, self.layers) {
            let whole = attention > 0 && layers > 0 && attention.is_multiple_of(layers);
            self.steps = whole.then(|| attention / layers);
            self.notes.push(match self.steps {
                Some(steps) => format!(
                    "the profiler marked no steps: {steps}, from {attention} times attention in {layers} layers"
                ),
                None => "the profiler marked no steps (prof.step()): give them with --steps".into(),
            });
        } else if self.steps.is_none() {
            self.notes.push(
                "the profiler marked no steps (prof.step()): give --steps, or --layers to infer them".into(),
            );
        }
        if let (None, Some(steps)) = (self.layers, self.steps) {
            self.infer_layers(attention, steps);
        }
        if self.tokens.is_none() && self.steps.is_some() {
            self.tokens = self.steps;
            self.notes
                .push("taken for granted: a token a step; --tokens says otherwise".into());
        }
    }

    /// Layers are how often a step attends, if the activation between the halves of an MLP agrees.
    fn infer_layers(&mut self, attention: u64, steps: u64) {
        let activation = |operation: &&Operation| {
            let name = operation.name.to_ascii_lowercase();
            name.contains("silu") || name.contains("gelu")
        };
        // silu_ calls silu; a device runs a kernel for each call on the host.
        let activations = self.operations.iter().filter(activation);
        let activations = activations
            .map(|operation| operation.total.count)
            .max()
            .unwrap_or(0);
        let by_step =
            |count: u64| (count > 0 && count.is_multiple_of(steps)).then(|| count / steps);
        self.layers = match (by_step(attention), by_step(activations)) {
            (Some(attention), Some(activations)) if attention == activations => Some(attention),
            (Some(one), None) if activations == 0 => Some(one),
            (None, Some(one)) if attention == 0 => Some(one),
            _ => None,
        };
        self.notes.push(match self.layers {
            Some(layers) => format!(
                "{layers} layers, from {attention} times attention and {activations} times the MLP's activation \
                 in {steps} steps"
            ),
            None => format!(
                "layers are not known: {attention} times attention and {activations} times an activation in \
                 {steps} steps do not agree; give them with --layers"
            ),
        });
    }

    /// How often a group ran.
    pub fn count(&self, group: Group) -> u64 {
        let found = self.groups.iter().find(|(of, _)| *of == group);
        found.map_or(0, |(_, total)| total.count)
    }
}

/// The steps that the profiler marked, and what belongs to them.
struct Annotated {
    /// Begin and end, ascending.
    steps: Vec<(i64, i64)>,
    /// When what a device did was launched, by correlation.
    launched: HashMap<i64, i64>,
}

impl Annotated {
    fn new(events: &[Event]) -> Self {
        let of = |category| {
            events
                .iter()
                .filter(move |event| event.category == category)
        };
        let mut steps: Vec<_> = of(Category::Step)
            .map(|step| (step.begin, step.end))
            .collect();
        steps.sort_unstable();
        let launched = of(Category::Runtime)
            .filter_map(|event| Some((event.correlation?, event.begin)))
            .collect();
        Self { steps, launched }
    }

    fn count(&self) -> Option<u64> {
        (!self.steps.is_empty()).then_some(self.steps.len() as u64)
    }

    fn nanoseconds(&self) -> u64 {
        self.steps
            .iter()
            .map(|(begin, end)| (end - begin) as u64)
            .sum()
    }

    /// Whether an event is of a step: what a device does is of the step in which it was launched,
    /// whenever it ran.
    fn counts(&self, event: &Event) -> bool {
        let launch = match event.category {
            Category::Kernel | Category::Memory => event
                .correlation
                .and_then(|correlation| self.launched.get(&correlation)),
            _ => None,
        };
        let at = launch.copied().unwrap_or(event.begin);
        let after = self.steps.partition_point(|(begin, _)| *begin <= at);
        self.steps.is_empty()
            || after
                .checked_sub(1)
                .is_some_and(|step| at < self.steps[step].1)
    }
}

/// An event under way.
struct Open {
    event: Event,
    group: Group,
    /// Nanoseconds of what ran within it.
    inner: u64,
}

/// Counts and times so far.
struct Tally<'a> {
    names: &'a [String],
    /// Whether a device computes: then the host's operators are no work of their groups'.
    has_device: bool,
    operations: HashMap<(Group, &'a str), Total>,
    groups: HashMap<Group, Total>,
}

impl<'a> Tally<'a> {
    fn new(names: &'a [String], has_device: bool) -> Self {
        Self {
            names,
            has_device,
            operations: HashMap::new(),
            groups: HashMap::new(),
        }
    }

    /// Counts the events of a thread, in the order in which they began.
    fn thread(&mut self, events: &[Event]) {
        let mut open: Vec<Open> = Vec::new();
        for &event in events {
            while let Some(ended) = open.pop_if(|open| open.event.end <= event.begin) {
                self.close(&ended, open.last_mut());
            }
            let parent = open.last();
            let group = self.group(&event, parent);
            if parent.is_none_or(|parent| parent.group != group) {
                self.groups.entry(group).or_default().count += 1;
            }
            let is_operator = |event: &Event| event.category == Category::Operator;
            let length = (event.end - event.begin) as u64;
            if is_operator(&event) && !open.iter().any(|open| is_operator(&open.event)) {
                self.groups.entry(Group::Operators).or_default().add(length);
            }
            if event.category == Category::Kernel {
                self.groups.entry(Group::Kernels).or_default().add(length);
            }
            open.push(Open {
                event,
                group,
                inner: 0,
            });
        }
        while let Some(ended) = open.pop() {
            self.close(&ended, open.last_mut());
        }
    }

    /// What an event is for: what its name says, else what it ran within is for.
    fn group(&self, event: &Event, parent: Option<&Open>) -> Group {
        let own = group(event.category, &self.names[event.name as usize]);
        let is_host = event.category == Category::Operator;
        match own {
            // Only what waits is time of its own: the rest is how long it takes to launch it.
            Some(own) if is_host && self.has_device && own != Group::Waiting => Group::Other,
            Some(own) => own,
            None => parent.map_or(Group::Other, |parent| parent.group),
        }
    }

    fn close(&mut self, ended: &Open, parent: Option<&mut Open>) {
        let length = (ended.event.end - ended.event.begin) as u64;
        let own = length.saturating_sub(ended.inner);
        if let Some(parent) = parent {
            parent.inner += length;
        }
        let name = direction(&self.names[ended.event.name as usize]);
        self.operations
            .entry((ended.group, name))
            .or_default()
            .add(own);
        self.groups.entry(ended.group).or_default().nanoseconds += own;
    }

    fn groups(&self) -> Vec<(Group, Total)> {
        let total = |group| Some((group, *self.groups.get(&group)?));
        Group::ALL.into_iter().filter_map(total).collect()
    }

    fn operations(&self) -> Vec<Operation> {
        let mut operations: Vec<_> = (self.operations.iter())
            .map(|(&(group, name), &total)| Operation {
                group,
                name: name.to_owned(),
                total,
                is_of_layer: false,
            })
            .collect();
        // By name where times are equal, so that the order is always the same.
        operations.sort_by(|a, b| {
            let by_time = b.total.nanoseconds.cmp(&a.total.nanoseconds);
            by_time.then_with(|| a.name.cmp(&b.name))
        });
        operations
    }
}
