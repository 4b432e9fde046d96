//! The tables of guides on the device.

use std::sync::Arc;

use bytemuck::cast_slice;

use super::MegakernelEngine;
use super::abi::{OG_GUIDE_FREE, OgGuideState, OgRequest};
use super::device::Device;
use super::error::DeviceError;
use crate::constraint::{StateRow, Tables};
use crate::engine::guide::Guide;

/// Bytes: what a kernel reads of a table begins at a multiple of it.
const ALIGNMENT: u64 = 16;

// What the kernels read is what the compiler of constraints wrote.
const _: () = assert!(size_of::<StateRow>() == size_of::<OgGuideState>());

/// Tables, and where the device has them.
pub(super) struct PlacedGuide {
    tables: Arc<Tables>,
    class_of: u64,
    steps: u64,
    rows: u64,
    listed: u64,
    /// Behind the last of them.
    end: u64,
}

impl PlacedGuide {
    fn new(tables: &Arc<Tables>, begin: u64) -> Self {
        let after = |begin: u64, bytes: usize| (begin + bytes as u64).next_multiple_of(ALIGNMENT);
        let class_of = begin.next_multiple_of(ALIGNMENT);
        let steps = after(class_of, size_of_val(tables.class_of_token()));
        let rows = after(steps, size_of_val(tables.steps()));
        let listed = after(rows, size_of_val(tables.state_rows()));
        Self {
            class_of,
            steps,
            rows,
            listed,
            end: after(listed, size_of_val(tables.listed())),
            tables: Arc::clone(tables),
        }
    }

    /// Has `request` begin at its start.
    fn begin(&self, request: &mut OgRequest) {
        let start = self.tables.start();
        let row = self.tables.state_rows()[usize::from(start)];
        request.guide = row.kind.into();
        request.guide_first = row.first;
        request.guide_count = row.count;
        request.guide_state = start.into();
        request.guide_step = row.steps;
        request.guide_classes = row.classes;
        request.guide_base = row.base;
        request.guide_class_of = self.class_of;
        request.guide_steps = self.steps;
        request.guide_rows = self.rows;
        request.guide_listed = self.listed;
    }
}

impl<D: Device> MegakernelEngine<D> {
    /// Brings the tables of `guides`, which are for as many `requests`, to the device, if they are not
    /// there, and has the requests begin in them.
    ///
    /// # Errors
    /// More tables than there is room for; a device that fails.
    pub(super) fn place_guides(
        &mut self,
        guides: &[Option<&Guide>],
        requests: &mut [OgRequest],
    ) -> Result<(), DeviceError> {
        let tables = |guide: &Option<&Guide>| match guide {
            Some(Guide::Tables(tables)) => Some(Arc::clone(tables)),
            _ => None,
        };
        let wanted: Vec<Option<Arc<Tables>>> = guides.iter().map(tables).collect();
        let is_there = |tables: &Arc<Tables>| self.find_guide(tables).is_some();
        if !wanted.iter().flatten().all(is_there) {
            self.write_guides(wanted.iter().flatten())?;
        }
        for (request, tables) in requests.iter_mut().zip(&wanted) {
            request.guide = OG_GUIDE_FREE;
            if let Some(placed) = tables.as_ref().and_then(|tables| self.find_guide(tables)) {
                placed.begin(request);
            }
        }
        Ok(())
    }

    fn find_guide(&self, tables: &Arc<Tables>) -> Option<&PlacedGuide> {
        let mut placed = self.guides.iter();
        placed.find(|placed| Arc::ptr_eq(&placed.tables, tables))
    }

    /// Writes these tables in the place of those that were there.
    fn write_guides<'a>(
        &mut self,
        all: impl Iterator<Item = &'a Arc<Tables>>,
    ) -> Result<(), DeviceError> {
        let at = self.state.at;
        self.guides.clear();
        let mut placed: Vec<PlacedGuide> = Vec::new();
        for tables in all {
            if !placed.iter().any(|one| Arc::ptr_eq(&one.tables, tables)) {
                let begin = placed.last().map_or(at.guides, |last| last.end);
                placed.push(PlacedGuide::new(tables, begin));
            }
        }
        let needed = placed.last().map_or(at.guides, |last| last.end) - at.guides;
        if needed > at.guide_bytes {
            return Err(DeviceError::GuidesTooLarge {
                needed,
                room: at.guide_bytes,
            });
        }
        for one in &placed {
            let tables = &one.tables;
            for (offset, bytes) in [
                (one.class_of, cast_slice(tables.class_of_token())),
                (one.steps, cast_slice(tables.steps())),
                (one.rows, cast_slice(tables.state_rows())),
                (one.listed, cast_slice(tables.listed())),
            ] {
                self.device.write_state(offset, bytes)?;
            }
        }
        self.guides = placed;
        Ok(())
    }
}
