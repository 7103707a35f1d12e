/*!
 * \file opencl/session.h
 * \brief One opened OpenCL device: context, in-order queue, memory, program cache.
 */
#ifndef HETERO_TVM_RUNTIME_OPENCL_SESSION_H_
#define HETERO_TVM_RUNTIME_OPENCL_SESSION_H_

#include <array>
#include <atomic>
#include <chrono>
#include <cstdint>
#include <deque>
#include <memory>
#include <mutex>
#include <string>
#include <string_view>
#include <unordered_map>

#include "../counters.h"
#include "../sync_options.h"
#include "../timeline.h"
#include "../trace.h"
#include "cl_api.h"
#include "kernel_profile.h"
#include "platforms.h"
#include "program_cache.h"
#include "unified_memory.h"

namespace hetero_tvm::runtime::opencl {

/*! \brief How many work-groups and work-items a launch has, per axis. */
struct LaunchShape {
  cl_uint axes = 1;
  std::array<size_t, 3> groups = {1, 1, 1};
  std::array<size_t, 3> items = {1, 1, 1};
};

/*! \brief A kernel ready to launch. */
struct Kernel {
  std::string name;
  ClHandle<cl_program> program;
  ClHandle<cl_kernel> handle;
  int64_t images = 0;  // arguments that are images; 0 also where it takes memory in their place
};

/*! \brief A place in the queue that can be waited for. */
struct ClFence {
  uint64_t ticket = 0;             // launches before it
  ClHandle<cl_event> event;        // null: wait with clFinish
  Clock::time_point started;       // of the work between it and the fence before it
  Prediction* expected = nullptr;  // how long such work takes; the session's
};

/*! \brief The launches between two fences: what tells them from others, and when they began. */
struct Stretch {
  uint64_t hash = 0;
  Clock::time_point started;

  void Add(const void* kernel, const std::array<size_t, 3>& global) {
    if (hash == 0) started = Clock::now();
    constexpr uint64_t kOdd = 0x9E3779B97F4A7C15U;  // 2^64 over the golden ratio: mixes all bits
    hash = (hash ^ reinterpret_cast<uintptr_t>(kernel)) * kOdd;
    for (const size_t extent : global) hash = (hash ^ extent) * kOdd;
    hash |= 1U;  // 0 is a stretch without launches
  }
};

/*!
 * \brief The device behind `opencl:0`. Thread-safe.
 *
 * Kernels go into an in-order queue and run while the caller goes on; Wait() is the only place that
 * blocks for them.
 */
class ClSession {
 public:
  ClSession(ClDevice device, const std::string& memory_kind, const std::string& cache_directory,
            size_t memory_limit, const SyncOptions& options, Counters& counters, Trace& trace);
  ClSession(const ClSession&) = delete;
  ClSession& operator=(const ClSession&) = delete;

  const ClDevice& device() const { return device_; }
  /*! \brief How its memory is shared, and why not in a better way. */
  const MemoryChoice& memory_choice() const { return memory_choice_; }

  /*! \brief Bytes taken of the driver and not given back yet. */
  size_t HeldBytes();

  void* Alloc(size_t bytes, size_t alignment);

  /*! \brief See UnifiedMemory::MapFile. */
  void* MapFile(const std::string& path, uint64_t offset, size_t bytes);

  /*! \brief Give memory back; what queued kernels still use lives until they are done. */
  void Free(void* data);

  /*!
   * \brief A ticket for everything launched so far; does not block.
   *
   * Once it is done the host may read what was written. Costs two loads when nothing is pending.
   */
  uint64_t Fence();

  /*! \brief Until the work of a ticket that Fence() gave is done. Throws its failure, once. */
  void Wait(uint64_t ticket);

  /*! \brief Until every kernel launched so far is done and the host may read what they wrote. */
  void Wait() { Wait(Fence()); }

  /*!
   * \brief Have the driver time every kernel from now on, or no more and give the trace the times.
   *
   * Waits for all kernels: those that are timed go to a queue of their own, since a queue that
   * times is not free.
   */
  void SetProfiling(bool on);

  /*!
   * \brief Compile `source`, or take it from the cache, and pick kernel `name`.
   * \param images Its arguments that are images; where the device has none so large the kernel is
   *        compiled to read memory in their place.
   */
  Kernel Build(const std::string& name, std::string_view source,
               const std::map<uint32_t, ImageArgument>& images);

  /*!
   * \brief Put one launch into the queue.
   * \param bind Sets the kernel's arguments; runs under the session's lock.
   */
  template <typename Bind>  // void(UnifiedMemory&, const ClApi&)
  void Launch(const Kernel& kernel, const LaunchShape& shape, const Bind& bind) {
    const double share = options_.GpuShare();
    if (share < 1) KeepShare(share);
    const TraceSpan span(trace_, TraceKind::kSubmit, kernel.name);
    const std::scoped_lock lock(mutex_);
    if (share >= 1) turn_launches_ = 0;  // work that shares nothing is no part of a turn
    submitted_.fetch_add(1);             // first: binding alone may hand memory to the device
    bind(memory_, api_);
    counters_.image_arguments.Add(kernel.images);
    Enqueue(kernel, shape);
  }

 private:
  // Work to release before memory that was given back gets out of hand.
  static constexpr size_t kMaxFreedBytes = size_t{256} << 20U;

  // Drivers may hold launches back until they are told to go on; telling costs a little.
  static constexpr uint64_t kLaunchesPerFlush = 8;

  // The host queues the next kernels within some microseconds, if it has any.
  static constexpr std::chrono::microseconds kLookForFollowers{10};
  static constexpr std::chrono::microseconds kShortNap{25};
  // A driver that makes no progress unless somebody blocks for it gets its way after this time.
  static constexpr std::chrono::milliseconds kLongestWatch{100};

  // Of a screen that shows 60 in a second.
  static constexpr std::chrono::microseconds kFrame{16'667};
  // What a kernel takes is not known before, so the queue is emptied now and then to see.
  static constexpr int kLaunchesPerLook = 4;

  /*!
   * \brief Before a launch, where others have a share of the GPU: once our work took our share of
   * a frame, let the queue run dry and leave the rest of the time to them.
   */
  void KeepShare(double share);

  void Enqueue(const Kernel& kernel, const LaunchShape& shape);
  void WaitLocked();
  uint64_t FenceLocked();
  Prediction& PredictionLocked(uint64_t stretch);
  bool MayWatch(const ClFence& fence) const;
  bool WatchEvent(const ClFence& fence, Clock::time_point expected_end) const;
  void DoneLocked(uint64_t ticket, bool is_certain);
  bool HasFailed(cl_event event) const;

  const ClDevice device_;
  const ClApi& api_;
  const SyncOptions& options_;
  Counters& counters_;
  Trace& trace_;
  ClHandle<cl_context> context_;
  ClHandle<cl_command_queue> plain_queue_;
  ProgramCache cache_;

  // Guards queue_, profile_, memory_, fences_, the turn, the arguments of every kernel, and the
  // order of mapping and launching. Taken by every public function but Build(), and not held while
  // waiting, so that launches from other threads go on; only Alloc() holds it when memory is short.
  std::mutex mutex_;
  ClHandle<cl_command_queue> profiling_queue_;  // made when it is first needed
  cl_command_queue queue_;                      // the one in use
  std::unique_ptr<KernelProfile> profile_;      // null: kernels are not timed
  const MemoryChoice memory_choice_;
  UnifiedMemory memory_;
  std::deque<std::shared_ptr<ClFence>> fences_;  // not known to be done, oldest first
  uint64_t fenced_ = 0;                          // launches before the last fence
  uint64_t finished_ = 0;         // launches that are over for certain; what they used may be freed
  Stretch stretch_;               // since the last fence
  Clock::time_point last_done_;   // when the last fence was seen to be done
  Clock::time_point turn_began_;  // since when the GPU is ours; of no meaning without launches
  int turn_launches_ = 0;         // since then
  std::unordered_map<uint64_t, Prediction> predictions_;  // by the hash of a stretch
  std::atomic<uint64_t> submitted_{0};                    // launches so far; grows under mutex_
  std::atomic<uint64_t> completed_{0};                    // launches known to be done
};

}  // namespace hetero_tvm::runtime::opencl

#endif  // HETERO_TVM_RUNTIME_OPENCL_SESSION_H_
