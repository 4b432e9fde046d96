//! A stream of launches and copies, events in it, graphs of it, and the modules that hold the
//! kernels.

use std::collections::HashMap;
use std::ffi::{CString, c_void};
use std::rc::Rc;

use cudarc::driver::result;
use cudarc::driver::sys::{self, CUfunction_attribute_enum as Attribute, CUresult};

use super::device_code;
use super::driver::{Context, word};
use crate::engine::megakernel::DeviceError;
use crate::engine::megakernel::abi::OgArguments;
use crate::engine::megakernel::device::Launch;

/// What a kernel takes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct KernelResources {
    /// Registers of a thread.
    pub registers: u32,
    /// Bytes of a thread that did not fit registers.
    pub spilled_bytes: u32,
    /// Threads that a block may have.
    pub max_threads: u32,
}

/// The kernels of the program, loaded for one card.
#[derive(Debug)]
pub(super) struct Kernels {
    context: Rc<Context>,
    modules: Vec<sys::CUmodule>,
    functions: HashMap<String, Function>,
}

/// A kernel, and the dynamic shared memory that it may have.
#[derive(Clone, Copy, Debug)]
struct Function {
    handle: sys::CUfunction,
    shared_bytes: u32,
}

impl Kernels {
    /// Loads those of `sources` that were compiled for the card.
    pub(super) fn load(context: &Rc<Context>, sources: &[&str]) -> Result<Self, DeviceError> {
        let mut kernels = Self {
            context: Rc::clone(context),
            modules: Vec::new(),
            functions: HashMap::new(),
        };
        for source in sources {
            kernels.modules.push(load_module(context, source)?);
        }
        Ok(kernels)
    }

    /// Whether there is a function called `name`.
    pub(super) fn has(&mut self, name: &str) -> bool {
        self.find(name).is_some()
    }

    fn find(&mut self, name: &str) -> Option<sys::CUfunction> {
        if let Some(function) = self.functions.get(name) {
            return Some(function.handle);
        }
        let name_of_c = CString::new(name).ok()?;
        let found = self.modules.iter().find_map(|&module| {
            // SAFETY: the module is loaded until `self` is dropped.
            unsafe { result::module::get_function(module, name_of_c.clone()) }.ok()
        });
        if let Some(handle) = found {
            let function = Function {
                handle,
                shared_bytes: 0,
            };
            self.functions.insert(name.to_owned(), function);
        }
        found
    }

    fn get(&mut self, name: &str) -> Result<sys::CUfunction, DeviceError> {
        let found = self.find(name);
        found.ok_or_else(|| DeviceError::Launch {
            kernel: name.to_owned(),
            device: self.context.card.name.clone(),
            word: "there is no such kernel".into(),
        })
    }

    pub(super) fn resources(&mut self, name: &str) -> Result<KernelResources, DeviceError> {
        let function = self.get(name)?;
        let attribute = |attribute: Attribute| {
            // SAFETY: the function's module is loaded until `self` is dropped.
            let value = unsafe { result::function::get_function_attribute(function, attribute) };
            let value = value.map_err(|error| self.context.error("cuFuncGetAttribute", error))?;
            Ok::<_, DeviceError>(u32::try_from(value).unwrap_or(0))
        };
        Ok(KernelResources {
            registers: attribute(Attribute::CU_FUNC_ATTRIBUTE_NUM_REGS)?,
            spilled_bytes: attribute(Attribute::CU_FUNC_ATTRIBUTE_LOCAL_SIZE_BYTES)?,
            max_threads: attribute(Attribute::CU_FUNC_ATTRIBUTE_MAX_THREADS_PER_BLOCK)?,
        })
    }

    /// The function called `name`, which may then have `shared_bytes` of dynamic shared memory.
    pub(super) fn with_shared(
        &mut self,
        name: &str,
        shared_bytes: u32,
    ) -> Result<sys::CUfunction, DeviceError> {
        let handle = self.get(name)?;
        let function = self.functions.get_mut(name).expect("it was found");
        if shared_bytes > function.shared_bytes {
            let attribute = Attribute::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
            // SAFETY: the function's module is loaded until `self` is dropped.
            let result = unsafe {
                result::function::set_function_attribute(handle, attribute, shared_bytes as i32)
            };
            result.map_err(|error| self.context.error("cuFuncSetAttribute", error))?;
            function.shared_bytes = shared_bytes;
        }
        Ok(handle)
    }

    /// How many blocks of this size a multiprocessor holds.
    pub(super) fn resident_blocks(
        &mut self,
        name: &str,
        threads: u32,
        shared_bytes: u32,
    ) -> Result<u32, DeviceError> {
        let function = self.with_shared(name, shared_bytes)?;
        // SAFETY: the function's module is loaded until `self` is dropped.
        let blocks = unsafe {
            result::occupancy::max_active_block_per_multiprocessor(
                function,
                threads as i32,
                shared_bytes as usize,
            )
        };
        let call = "cuOccupancyMaxActiveBlocksPerMultiprocessor";
        let blocks = blocks.map_err(|error| self.context.error(call, error))?;
        Ok(u32::try_from(blocks).unwrap_or(0))
    }
}

impl Drop for Kernels {
    fn drop(&mut self) {
        if self.context.make_current().is_err() {
            return;
        }
        for &module in &self.modules {
            // SAFETY: loaded in `load`, unloaded nowhere else. A failure has nowhere to go.
            let _ = unsafe { result::module::unload(module) };
        }
    }
}

fn load_module(context: &Context, source: &str) -> Result<sys::CUmodule, DeviceError> {
    let (major, minor) = context.card.capability;
    let mut why = "no image for it".to_owned();
    for image in device_code::images_for(source, major, minor) {
        // SAFETY: the image is a whole fatbin, as nvcc made it.
        match unsafe { result::module::load_data(image.code.as_ptr().cast()) } {
            Ok(module) => return Ok(module),
            Err(error) => why = word(error),
        }
    }
    Err(DeviceError::ArchitectureMissing {
        device: context.card.name.clone(),
        capability: format!("{major}.{minor}"),
        arch: format!("{major}{minor}"),
        word: why,
    })
}

/// Work that runs in order.
#[derive(Debug)]
pub(super) struct Stream {
    context: Rc<Context>,
    stream: sys::CUstream,
}

impl Stream {
    pub(super) fn new(context: &Rc<Context>) -> Result<Self, DeviceError> {
        let stream = result::stream::create(result::stream::StreamKind::NonBlocking);
        Ok(Self {
            stream: stream.map_err(|error| context.error("cuStreamCreate", error))?,
            context: Rc::clone(context),
        })
    }

    /// # Safety
    /// The addresses in the arguments must be those of memory that outlives the launch.
    pub(super) unsafe fn launch(
        &self,
        function: sys::CUfunction,
        launch: &Launch,
    ) -> Result<(), DeviceError> {
        let mut arguments: OgArguments = launch.arguments;
        let mut parameters = [(&raw mut arguments).cast::<c_void>()];
        let grid = (launch.blocks, 1, 1);
        let block = (launch.threads, 1, 1);
        let shared = launch.shared_bytes;
        // SAFETY: the kernel has one parameter, an `OgArguments`, which is copied by the call; the
        // caller promises the rest.
        let result = unsafe {
            match launch.cooperative {
                true => result::launch_cooperative_kernel(
                    function,
                    grid,
                    block,
                    shared,
                    self.stream,
                    &mut parameters,
                ),
                false => result::launch_kernel(
                    function,
                    grid,
                    block,
                    shared,
                    self.stream,
                    &mut parameters,
                ),
            }
        };
        result.map_err(|error| DeviceError::Launch {
            kernel: launch.kernel.clone(),
            device: self.context.card.name.clone(),
            word: word(error),
        })
    }

    /// # Safety
    /// `to` must have room; `from` must stay as it is until the copy is done.
    pub(super) unsafe fn copy_to_device(
        &self,
        to: sys::CUdeviceptr,
        from: &[u8],
    ) -> Result<(), DeviceError> {
        // SAFETY: the caller's promise.
        let result = unsafe { result::memcpy_htod_async(to, from, self.stream) };
        result.map_err(|error| self.context.error("cuMemcpyHtoDAsync", error))
    }

    /// # Safety
    /// `from` must be as long as `to`, which must not be used until the copy is done.
    pub(super) unsafe fn copy_from_device(
        &self,
        to: &mut [u8],
        from: sys::CUdeviceptr,
    ) -> Result<(), DeviceError> {
        // SAFETY: the caller's promise.
        let result = unsafe { result::memcpy_dtoh_async(to, from, self.stream) };
        result.map_err(|error| self.context.error("cuMemcpyDtoHAsync", error))
    }

    /// Whether all its work is done; fails if some of it failed.
    pub(super) fn is_idle(&self, running: &str) -> Result<bool, DeviceError> {
        // SAFETY: the stream lives until `self` is dropped.
        match unsafe { sys::cuStreamQuery(self.stream) } {
            CUresult::CUDA_SUCCESS => Ok(true),
            CUresult::CUDA_ERROR_NOT_READY => Ok(false),
            error => Err(self.failed(running, result::DriverError(error))),
        }
    }

    pub(super) fn wait(&self, running: &str) -> Result<(), DeviceError> {
        // SAFETY: the stream lives until `self` is dropped.
        let result = unsafe { result::stream::synchronize(self.stream) };
        result.map_err(|error| self.failed(running, error))
    }

    fn failed(&self, running: &str, error: result::DriverError) -> DeviceError {
        DeviceError::Launch {
            kernel: running.to_owned(),
            device: self.context.card.name.clone(),
            word: word(error),
        }
    }

    /// Records what `work` launches, instead of running it.
    pub(super) fn record(
        &self,
        work: impl FnOnce() -> Result<(), DeviceError>,
    ) -> Result<Graph, DeviceError> {
        let fail = |call| move |error| self.context.error(call, error);
        let mode = sys::CUstreamCaptureMode_enum::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL;
        // SAFETY: the stream lives, and is not capturing yet.
        let begun = unsafe { result::stream::begin_capture(self.stream, mode) };
        begun.map_err(fail("cuStreamBeginCapture"))?;
        let worked = work();
        // Also after a failure, so that the stream can be used again.
        // SAFETY: the stream is capturing.
        let graph = unsafe { result::stream::end_capture(self.stream) };
        worked?;
        let graph = graph.map_err(fail("cuStreamEndCapture"))?;
        let flags = sys::CUgraphInstantiate_flags(0);
        // SAFETY: the graph was just made, and is destroyed once below.
        let (executable, destroyed) = unsafe {
            let executable = result::graph::instantiate(graph, flags);
            (executable, result::graph::destroy(graph))
        };
        let executable = executable.map_err(fail("cuGraphInstantiate"))?;
        let graph = Graph {
            context: Rc::clone(&self.context),
            executable,
        };
        destroyed.map_err(fail("cuGraphDestroy"))?;
        // SAFETY: both live.
        let uploaded = unsafe { result::graph::upload(graph.executable, self.stream) };
        uploaded.map_err(fail("cuGraphUpload"))?;
        Ok(graph)
    }

    /// # Safety
    /// What the graph's kernels use must outlive their run.
    pub(super) unsafe fn replay(&self, graph: &Graph) -> Result<(), DeviceError> {
        // SAFETY: both live; the caller promises the rest.
        let result = unsafe { result::graph::launch(graph.executable, self.stream) };
        result.map_err(|error| self.context.error("cuGraphLaunch", error))
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        // SAFETY: made in `new`, destroyed nowhere else, and waited for before. A failure has
        // nowhere to go.
        let _ = self.context.make_current().map(|()| unsafe {
            let _ = result::stream::synchronize(self.stream);
            result::stream::destroy(self.stream)
        });
    }
}

/// Launches that were recorded.
#[derive(Debug)]
pub struct Graph {
    context: Rc<Context>,
    executable: sys::CUgraphExec,
}

impl Drop for Graph {
    fn drop(&mut self) {
        // SAFETY: instantiated once, destroyed nowhere else. A failure has nowhere to go.
        let _ = self
            .context
            .make_current()
            .map(|()| unsafe { result::graph::exec_destroy(self.executable) });
    }
}

/// A moment in a stream, for timing.
#[derive(Debug)]
pub struct Event {
    context: Rc<Context>,
    event: sys::CUevent,
}

impl Event {
    pub(super) fn new(context: &Rc<Context>) -> Result<Self, DeviceError> {
        let event = result::event::create(sys::CUevent_flags_enum::CU_EVENT_DEFAULT);
        Ok(Self {
            event: event.map_err(|error| context.error("cuEventCreate", error))?,
            context: Rc::clone(context),
        })
    }

    pub(super) fn record(&self, stream: &Stream) -> Result<(), DeviceError> {
        // SAFETY: both live, and have one context.
        let result = unsafe { result::event::record(self.event, stream.stream) };
        result.map_err(|error| self.context.error("cuEventRecord", error))
    }

    /// Waits until the stream has come to it.
    pub(super) fn wait(&self) -> Result<(), DeviceError> {
        // SAFETY: it lives.
        let result = unsafe { result::event::synchronize(self.event) };
        result.map_err(|error| self.context.error("cuEventSynchronize", error))
    }

    /// Seconds from `earlier` to this one, once both have passed.
    pub(super) fn seconds_since(&self, earlier: &Self) -> Result<f64, DeviceError> {
        self.wait()?;
        // SAFETY: both live and were recorded.
        let milliseconds = unsafe { result::event::elapsed(earlier.event, self.event) };
        let milliseconds =
            milliseconds.map_err(|error| self.context.error("cuEventElapsedTime", error))?;
        Ok(f64::from(milliseconds) * 1e-3)
    }
}

impl Drop for Event {
    fn drop(&mut self) {
        // SAFETY: made in `new`, destroyed nowhere else. A failure has nowhere to go.
        let _ = self
            .context
            .make_current()
            .map(|()| unsafe { result::event::destroy(self.event) });
    }
}
