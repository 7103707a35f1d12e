/*!
 * \file opencl/session.cc
 * \brief Opening a device, launching kernels, waiting for them.
 */
#include "session.h"

#include <algorithm>
#include <utility>

#include "../crash_report.h"
#include "dma_buf.h"

namespace hetero_tvm::runtime::opencl {
namespace {

ClHandle<cl_context> CreateContext(const ClDevice& device) {
  cl_int status = kSuccess;
  cl_context context = device.api->CreateContext(nullptr, 1, &device.id, nullptr, nullptr, &status);
  CheckCl(status, context, device.name + ": clCreateContext");
  return {context, device.api->ReleaseContext};
}

ClHandle<cl_command_queue> CreateQueue(const ClDevice& device, cl_context context,
                                       cl_bitfield properties) {
  cl_int status = kSuccess;
  cl_command_queue queue = device.api->CreateCommandQueue(context, device.id, properties, &status);
  CheckCl(status, queue, device.name + ": clCreateCommandQueue");
  return {queue, device.api->ReleaseCommandQueue};
}

}  // namespace

ClSession::ClSession(ClDevice device, const std::string& memory_kind,
                     const std::string& cache_directory, size_t memory_limit,
                     const SyncOptions& options, Counters& counters, Trace& trace)
    : device_(std::move(device)),
      api_(*device_.api),
      options_(options),
      counters_(counters),
      trace_(trace),
      context_(CreateContext(device_)),
      plain_queue_(CreateQueue(device_, context_.Get(), 0)),
      cache_(device_, context_.Get(), cache_directory, counters),
      queue_(plain_queue_.Get()),
      memory_choice_(ChooseMemory(
          device_, memory_kind,
          [this] { return TryDmaBuf(device_, context_.Get(), plain_queue_.Get(), cache_); })),
      memory_(device_, memory_choice_.kind, context_.Get(), queue_, memory_limit) {
  CrashReport::Note("OpenCL device: " + device_.name + " of " + device_.platform_name +
                    ", driver " + device_.driver_version);
  if (trace_.IsOn()) SetProfiling(true);
}

void ClSession::SetProfiling(bool on) {
  const std::scoped_lock lock(mutex_);
  if (on == (profile_ != nullptr)) return;
  WaitLocked();
  if (on) {
    if (profiling_queue_.Get() == nullptr) {
      profiling_queue_ = CreateQueue(device_, context_.Get(), kQueueProfilingEnable);
    }
    queue_ = profiling_queue_.Get();
    profile_ = std::make_unique<KernelProfile>(api_, device_.id, queue_);
  } else {
    std::vector<TraceEvent> kernels = profile_->Finish();
    trace_.AddFromGpu(std::move(kernels), profile_->lost());
    profile_ = nullptr;
    queue_ = plain_queue_.Get();
  }
  memory_.SetQueue(queue_);
}

size_t ClSession::HeldBytes() {
  const std::scoped_lock lock(mutex_);
  return memory_.HeldBytes();
}

void* ClSession::Alloc(size_t bytes, size_t alignment) {
  const std::scoped_lock lock(mutex_);
  memory_.ReleaseFreed(finished_);
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

void* ClSession::MapFile(const std::string& path, uint64_t offset, size_t bytes) {
  const std::scoped_lock lock(mutex_);
  return memory_.MapFile(path, offset, bytes);
}

void ClSession::Free(void* data) {
  const std::scoped_lock lock(mutex_);
  memory_.Free(data, submitted_.load());
  memory_.ReleaseFreed(finished_);
}

uint64_t ClSession::Fence() {
  const uint64_t submitted = submitted_.load();
  if (completed_.load() >= submitted) return submitted;
  const std::scoped_lock lock(mutex_);
  return FenceLocked();
}

uint64_t ClSession::FenceLocked() {
  const uint64_t submitted = submitted_.load();
  if (fenced_ == submitted) return submitted;
  memory_.MapForHost();
  auto fence = std::make_shared<ClFence>();
  fence->ticket = submitted;
  fence->started = stretch_.started;
  fence->expected = &PredictionLocked(stretch_.hash);
  if (options_.fast.load(std::memory_order_relaxed)) {
    cl_event event = nullptr;
    // A queue that takes no marker can still be finished, and says then what is wrong with it.
    if (api_.EnqueueMarkerWithWaitList(queue_, 0, nullptr, &event) == kSuccess) {
      fence->event = ClHandle<cl_event>(event, api_.ReleaseEvent);
      api_.Flush(queue_);
    }
  }
  fences_.push_back(std::move(fence));
  fenced_ = submitted;
  stretch_ = {};
  return submitted;
}

Prediction& ClSession::PredictionLocked(uint64_t stretch) {
  constexpr size_t kMostStretches =
      4096;  // a program that never does the same again learns nothing
  const auto known = predictions_.find(stretch);
  if (known != predictions_.end()) return known->second;
  return predictions_[predictions_.size() < kMostStretches ? stretch : 0];
}

void ClSession::Wait(uint64_t ticket) {
  if (completed_.load() >= ticket) return;
  std::shared_ptr<ClFence> fence;
  Clock::time_point started;
  Clock::duration expected{};  // from `started` on
  cl_command_queue queue = nullptr;
  {
    const std::scoped_lock lock(mutex_);
    if (completed_.load() >= ticket) return;
    queue = queue_;
    started = std::max(fences_.front()->started, last_done_);
    for (const std::shared_ptr<ClFence>& queued : fences_) {
      fence = queued;
      expected += fence->expected->Get();
      if (fence->ticket >= ticket) break;
    }
  }
  counters_.gpu_waits.Add();
  const bool watched =
      fence->event.Get() != nullptr && MayWatch(*fence) && WatchEvent(*fence, started + expected);
  const cl_event event = fence->event.Get();
  // Also when the event was seen to be over: only this call makes what was written visible.
  const char* call = event == nullptr ? "clFinish" : "clWaitForEvents";
  cl_int status = event == nullptr ? api_.Finish(queue) : api_.WaitForEvents(1, &event);
  if (status != kSuccess && event != nullptr && !HasFailed(event)) {
    call = "clFinish";  // it was the waiting that failed, not the work
    status = api_.Finish(queue);
  }
  const std::scoped_lock lock(mutex_);
  if (completed_.load() >= fence->ticket) return;  // another thread was here first, and told
  if (watched && fence == fences_.front()) fence->expected->Learn(Clock::now() - started);
  DoneLocked(fence->ticket, status == kSuccess);
  CheckCl(status, call);
}

bool ClSession::HasFailed(cl_event event) const {
  cl_int state = kSuccess;
  return api_.GetEventInfo(event, kEventExecutionStatus, sizeof(state), &state, nullptr) ==
             kSuccess &&
         state < kEventComplete;
}

bool ClSession::MayWatch(const ClFence& fence) const {
  if (device_.type != "cpu" || options_.poll_cpu.load(std::memory_order_relaxed)) return true;
  // Whoever blocks for a device that is this processor computes for it, and comes back only when
  // what was queued behind the fence is done as well. So block only where nothing follows.
  const Clock::time_point end = Clock::now() + kLookForFollowers;
  while (submitted_.load() == fence.ticket && Clock::now() < end) waiting::Yield();
  return submitted_.load() > fence.ticket;
}

bool ClSession::WatchEvent(const ClFence& fence, Clock::time_point expected_end) const {
  bool was_running = false;
  const auto is_over = [&] {
    cl_int status = kSuccess;
    const cl_int asked = api_.GetEventInfo(fence.event.Get(), kEventExecutionStatus, sizeof(status),
                                           &status, nullptr);
    const bool over = asked != kSuccess || status <= kEventComplete;
    was_running = was_running || !over;
    return over;
  };
  const Clock::duration left = expected_end - Clock::now();
  bool over = SleepThenPoll(std::max(left, Clock::duration::zero()), is_over);
  if (device_.type == "cpu") {
    const Clock::time_point end = Clock::now() + kLongestWatch;
    while (!over && Clock::now() < end) {
      waiting::SleepFor(kShortNap);
      over = is_over();
    }
  }
  return was_running;
}

void ClSession::KeepShare(double share) {
  const double rest = 1 / share - 1;  // of the others, for each of ours
  Clock::time_point began;
  {
    const std::scoped_lock lock(mutex_);
    const Clock::time_point now = Clock::now();
    const bool is_idle = completed_.load() >= submitted_.load();
    if (turn_launches_ > 0 && is_idle) {
      // While we waited for the NPU, or nobody asked for anything, the others had their time: it
      // pays for ours, of which none of it is a part.
      using Seconds = std::chrono::duration<double>;
      const Seconds ours = last_done_ - turn_began_;
      const Seconds left = ours - Seconds(now - last_done_) / rest;
      if (left.count() <= 0) turn_launches_ = 0;
      turn_began_ = now - std::chrono::duration_cast<Clock::duration>(left);
    }
    if (turn_launches_ == 0) turn_began_ = now;
    began = turn_began_;
    if (++turn_launches_ % kLaunchesPerLook != 0) return;
  }
  Wait();
  const Clock::duration ours = Clock::now() - began;
  if (ours < kFrame * share) return;
  const auto gap = std::chrono::duration_cast<std::chrono::microseconds>(ours * rest);
  waiting::SleepFor(gap);
  counters_.gpu_gap_us.Add(gap.count());
  const std::scoped_lock lock(mutex_);
  turn_launches_ = 0;
}

void ClSession::DoneLocked(uint64_t ticket, bool is_certain) {
  completed_.store(std::max(completed_.load(), ticket));
  // Where the driver failed the work may still go on; a later wait that succeeds ends it too.
  if (is_certain) finished_ = completed_.load();
  last_done_ = Clock::now();
  while (!fences_.empty() && fences_.front()->ticket <= ticket) fences_.pop_front();
  memory_.ReleaseFreed(finished_);
}

void ClSession::WaitLocked() {
  counters_.gpu_waits.Add();
  const uint64_t ticket = FenceLocked();
  const cl_int status = api_.Finish(queue_);
  // Even when it failed: whatever was queued is over, and a second wait must not report it again.
  DoneLocked(ticket, status == kSuccess);
  CheckCl(status, "clFinish");
}

Kernel ClSession::Build(const std::string& name, std::string_view source,
                        const std::map<uint32_t, ImageArgument>& images) {
  Kernel kernel;
  kernel.name = name;
  const bool has_all = std::all_of(images.begin(), images.end(), [&](const auto& image) {
    return image.second.pixels <= static_cast<size_t>(device_.image_pixels);
  });
  kernel.images = has_all ? static_cast<int64_t>(images.size()) : 0;
  if (!has_all) {
    kernel.program = cache_.Build(name, "#define HETERO_BUFFERS 1\n" + std::string(source));
  } else {
    kernel.program = cache_.Build(name, source);
  }
  cl_int status = kSuccess;
  cl_kernel handle = api_.CreateKernel(kernel.program.Get(), name.c_str(), &status);
  CheckCl(status, handle, "no kernel " + name + " in its program: clCreateKernel");
  kernel.handle = ClHandle<cl_kernel>(handle, api_.ReleaseKernel);
  return kernel;
}

void ClSession::Enqueue(const Kernel& kernel, const LaunchShape& shape) {
  std::array<size_t, 3> global = {1, 1, 1};
  for (size_t axis = 0; axis < global.size(); ++axis) {
    global[axis] = shape.groups[axis] * shape.items[axis];
    if (global[axis] == 0) return;  // a dynamic dimension of size zero: nothing to do
  }
  CrashReport::LastKernel(kernel.name);
  cl_event event = nullptr;
  const cl_int status = api_.EnqueueNDRangeKernel(queue_, kernel.handle.Get(), shape.axes, nullptr,
                                                  global.data(), shape.items.data(), 0, nullptr,
                                                  profile_ == nullptr ? nullptr : &event);
  if (status != kSuccess) {
    TVM_FFI_THROW(DeviceFailure) << "OpenCL: kernel " << kernel.name
                                 << " could not be launched (clEnqueueNDRangeKernel) with "
                                 << shape.items[0] << "x" << shape.items[1] << "x" << shape.items[2]
                                 << " work-items (" << device_.name << " takes at most "
                                 << device_.max_work_group_size << "): " << ClProblem(status);
  }
  if (profile_ != nullptr) profile_->Add(event, kernel.name, Trace::CurrentCall());
  stretch_.Add(kernel.handle.Get(), global);
  if (submitted_.load() % kLaunchesPerFlush == 0) api_.Flush(queue_);
  counters_.kernel_launches.Add();
}

}  // namespace hetero_tvm::runtime::opencl
