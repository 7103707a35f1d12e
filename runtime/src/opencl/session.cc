/*!
 * \file opencl/session.cc
 * \brief Opening a device, launching kernels, waiting for them.
 */
#include "session.h"

#include <algorithm>
#include <utility>

namespace hetero_tvm::runtime::opencl {
namespace {

ClHandle<cl_context> CreateContext(const ClDevice& device) {
  cl_int status = kSuccess;
  cl_context context = device.api->CreateContext(nullptr, 1, &device.id, nullptr, nullptr, &status);
  CheckCl(status, device.name + ": clCreateContext");
  return {context, device.api->ReleaseContext};
}

ClHandle<cl_command_queue> CreateQueue(const ClDevice& device, cl_context context) {
  cl_int status = kSuccess;
  cl_command_queue queue = device.api->CreateCommandQueue(context, device.id, 0, &status);
  CheckCl(status, device.name + ": clCreateCommandQueue");
  return {queue, device.api->ReleaseCommandQueue};
}

}  // namespace

ClSession::ClSession(ClDevice device, const std::string& memory_kind,
                     const std::string& cache_directory, Counters& counters)
    : device_(std::move(device)),
      api_(*device_.api),
      counters_(counters),
      context_(CreateContext(device_)),
      queue_(CreateQueue(device_, context_.Get())),
      cache_(device_, context_.Get(), cache_directory, counters),
      memory_(device_, ChooseMemoryKind(device_, memory_kind), context_.Get(), queue_.Get()) {}

void* ClSession::Alloc(size_t bytes, size_t alignment) {
  const std::scoped_lock lock(mutex_);
  memory_.ReleaseFreed(completed_.load());
  if (memory_.FreedBytes() > kMaxFreedBytes) WaitLocked();
  void* data = nullptr;
  try {
    data = memory_.Alloc(bytes, alignment);
  } catch (const tvm::ffi::Error&) {
    if (memory_.FreedBytes() == 0) throw;
    WaitLocked();  // returns what only queued work still held
    data = memory_.Alloc(bytes, alignment);
  }
  counters_.allocations.Add();
  counters_.bytes_allocated.Add(static_cast<int64_t>(bytes));
  return data;
}

void ClSession::Free(void* data) {
  const std::scoped_lock lock(mutex_);
  memory_.Free(data, submitted_.load());
  memory_.ReleaseFreed(completed_.load());
}

void ClSession::Wait() {
  if (completed_.load() >= submitted_.load()) return;
  if (memory_.kind() == MemoryKind::kFineSvm) {
    counters_.gpu_waits.Add();
    uint64_t target = 0;
    {
      const std::scoped_lock lock(mutex_);  // a launch is counted before it is in the queue
      target = submitted_.load();
    }
    const cl_int status = api_.Finish(queue_.Get());
    const std::scoped_lock lock(mutex_);
    completed_.store(std::max(completed_.load(), target));
    memory_.ReleaseFreed(completed_.load());
    CheckCl(status, "clFinish");
    return;
  }
  const std::scoped_lock lock(mutex_);
  WaitLocked();
}

void ClSession::WaitLocked() {
  counters_.gpu_waits.Add();
  const cl_int status = api_.Finish(queue_.Get());
  // Even when it failed: whatever was queued is over, and a second wait must not report it again.
  completed_.store(submitted_.load());
  memory_.MapForHost();
  memory_.ReleaseFreed(completed_.load());
  CheckCl(status, "clFinish");
}

Kernel ClSession::Build(const std::string& name, std::string_view source) {
  Kernel kernel;
  kernel.name = name;
  kernel.program = cache_.Build(name, source);
  cl_int status = kSuccess;
  cl_kernel handle = api_.CreateKernel(kernel.program.Get(), name.c_str(), &status);
  if (status != kSuccess) {
    TVM_FFI_THROW(DeviceFailure) << "OpenCL: no kernel " << name
                                 << " in its program: " << ClErrorName(status);
  }
  kernel.handle = ClHandle<cl_kernel>(handle, api_.ReleaseKernel);
  return kernel;
}

void ClSession::Enqueue(const Kernel& kernel, const LaunchShape& shape) {
  std::array<size_t, 3> global = {1, 1, 1};
  for (size_t axis = 0; axis < global.size(); ++axis) {
    global[axis] = shape.groups[axis] * shape.items[axis];
    if (global[axis] == 0) return;  // a dynamic dimension of size zero: nothing to do
  }
  const cl_int status =
      api_.EnqueueNDRangeKernel(queue_.Get(), kernel.handle.Get(), shape.axes, nullptr,
                                global.data(), shape.items.data(), 0, nullptr, nullptr);
  if (status != kSuccess) {
    TVM_FFI_THROW(DeviceFailure) << "OpenCL: kernel " << kernel.name
                                 << " could not be launched with " << shape.items[0] << "x"
                                 << shape.items[1] << "x" << shape.items[2] << " work-items ("
                                 << device_.name << " takes at most " << device_.max_work_group_size
                                 << "): " << ClErrorName(status);
  }
  if (submitted_.load() % kLaunchesPerFlush == 0) api_.Flush(queue_.Get());
  counters_.kernel_launches.Add();
}

}  // namespace hetero_tvm::runtime::opencl
