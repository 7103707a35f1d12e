/*!
 * \file opencl/kernel_profile.cc
 * \brief Reading the driver's times, and the device's clock beside the host's.
 */
#include "kernel_profile.h"

#include <limits>
#include <utility>

namespace hetero_tvm::runtime::opencl {

KernelProfile::KernelProfile(const ClApi& api, cl_device_id device, cl_command_queue queue)
    : api_(api), device_(device), queue_(queue), begin_(ReadClocks()) {}

bool KernelProfile::ReadTimer(Instant* instant, int64_t* width_ns) const {
  if (api_.GetDeviceAndHostTimer == nullptr) return false;
  cl_ulong device_ns = 0;
  cl_ulong drivers_host_ns = 0;  // of a clock that the driver chooses: of no use
  const int64_t before = HostNanoseconds();
  const cl_int status = api_.GetDeviceAndHostTimer(device_, &device_ns, &drivers_host_ns);
  const int64_t after = HostNanoseconds();
  if (status != kSuccess) return false;
  *instant = {before + (after - before) / 2, static_cast<int64_t>(device_ns)};
  *width_ns = after - before;
  return true;
}

bool KernelProfile::ReadMarker(Instant* instant, int64_t* width_ns) const {
  cl_event event = nullptr;
  const int64_t before = HostNanoseconds();
  const cl_int status = api_.EnqueueMarkerWithWaitList(queue_, 0, nullptr, &event);
  const int64_t after = HostNanoseconds();
  if (status != kSuccess) return false;
  const ClHandle<cl_event> owner(event, api_.ReleaseEvent);
  cl_ulong queued_ns = 0;  // the device's clock while the host was in the call above
  if (api_.WaitForEvents(1, &event) != kSuccess ||
      api_.GetEventProfilingInfo(event, kProfilingQueued, sizeof(queued_ns), &queued_ns, nullptr) !=
          kSuccess) {
    return false;
  }
  *instant = {before + (after - before) / 2, static_cast<int64_t>(queued_ns)};
  *width_ns = after - before;
  return true;
}

KernelProfile::Instant KernelProfile::ReadClocks() const {
  constexpr int kTries = 16;  // the one that nothing came between is the best
  Instant best;
  int64_t narrowest = std::numeric_limits<int64_t>::max();
  for (int i = 0; i < kTries; ++i) {
    Instant instant;
    int64_t width_ns = 0;
    if (!ReadTimer(&instant, &width_ns) && !ReadMarker(&instant, &width_ns)) continue;
    if (width_ns < narrowest) {
      narrowest = width_ns;
      best = instant;
    }
  }
  return best;
}

void KernelProfile::Add(cl_event event, const std::string& name, int64_t call) {
  if (event == nullptr) {
    ++lost_;
    return;
  }
  pending_.push_back({ClHandle<cl_event>(event, api_.ReleaseEvent), name, call});
  if (pending_.size() > kMostPending) ReadTimes(/*all=*/false);
}

void KernelProfile::ReadTimes(bool all) {
  while (!pending_.empty()) {
    const Pending& oldest = pending_.front();
    cl_ulong start = 0;
    cl_ulong end = 0;
    const auto read = [&](cl_uint what, cl_ulong* value) {
      return api_.GetEventProfilingInfo(oldest.event.Get(), what, sizeof(*value), value, nullptr) ==
             kSuccess;
    };
    const bool known = read(kProfilingStart, &start) && read(kProfilingEnd, &end);
    if (!known && !all) return;  // not over yet, nor is what follows it
    if (known && kernels_.size() < kMostKernels) {
      kernels_.push_back({TraceKind::kKernel, oldest.name, static_cast<int64_t>(start),
                          static_cast<int64_t>(end), oldest.call, 0});
    } else {
      ++lost_;
    }
    pending_.pop_front();
  }
}

std::vector<TraceEvent> KernelProfile::Finish() {
  ReadTimes(/*all=*/true);
  const Instant end = ReadClocks();
  const int64_t device_ns = end.device_ns - begin_.device_ns;
  // How much faster or slower the host's clock goes; over less than this only noise would show.
  constexpr int64_t kLeastNs = 100'000'000;
  const double rate = device_ns > kLeastNs ? static_cast<double>(end.host_ns - begin_.host_ns) /
                                                 static_cast<double>(device_ns)
                                           : 1.0;
  const auto on_host = [&](int64_t ns) {
    return begin_.host_ns + static_cast<int64_t>(static_cast<double>(ns - begin_.device_ns) * rate);
  };
  for (TraceEvent& kernel : kernels_) {
    kernel.start_ns = on_host(kernel.start_ns);
    kernel.end_ns = on_host(kernel.end_ns);
  }
  return std::exchange(kernels_, {});
}

}  // namespace hetero_tvm::runtime::opencl
