//! A CUDA GPU as a [`Driver`].

use super::driver::{Driver, GraphId, Limits, Ptr, Ticket};
use super::kernels::KernelInfo;
use crate::error::{Error, Result};

/// A CUDA device.
pub struct CudaDriver {
    never: std::convert::Infallible,
}

impl CudaDriver {
    /// Opens device `index`.
    ///
    /// # Errors
    /// [`Error::Device`].
    pub fn new(index: usize) -> Result<Self> {
        Err(Error::Device {
            device: format!("cuda:{index}"),
            problem: "not in this build".into(),
        })
    }
}

#[allow(clippy::uninhabited_references)]
impl Driver for CudaDriver {
    fn name(&self) -> String {
        match self.never {}
    }
    fn limits(&self) -> Limits {
        match self.never {}
    }
    fn alloc(&self, _: usize) -> Result<Ptr> {
        match self.never {}
    }
    fn free(&self, _: Ptr) {}
    fn free_bytes(&self) -> Option<usize> {
        match self.never {}
    }
    fn upload(&self, _: Ptr, _: &[u8]) -> Result<()> {
        match self.never {}
    }
    fn download(&self, _: Ptr, _: &mut [u8]) -> Result<()> {
        match self.never {}
    }
    fn download_later(&self, _: Ptr, _: usize) -> Result<Ticket> {
        match self.never {}
    }
    fn collect(&self, _: Ticket, _: &mut [u8]) -> Result<()> {
        match self.never {}
    }
    fn launch(&self, _: &KernelInfo, _: [u32; 3], _: u32, _: &[u8]) -> Result<()> {
        match self.never {}
    }
    fn synchronize(&self) -> Result<()> {
        match self.never {}
    }
    fn record(&self, _: &mut dyn FnMut() -> Result<()>) -> Result<Option<GraphId>> {
        match self.never {}
    }
    fn replay(&self, _: GraphId) -> Result<()> {
        match self.never {}
    }
    fn forget(&self, _: GraphId) {}
    fn time(&self, _: &mut dyn FnMut() -> Result<()>) -> Result<f32> {
        match self.never {}
    }
}
