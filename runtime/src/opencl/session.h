/*!
 * \file opencl/session.h
 * \brief One opened OpenCL device: context, in-order queue, memory, program cache.
 */
#ifndef HETERO_TVM_RUNTIME_OPENCL_SESSION_H_
#define HETERO_TVM_RUNTIME_OPENCL_SESSION_H_

#include <array>
#include <atomic>
#include <mutex>
#include <string>
#include <string_view>

#include "../counters.h"
#include "cl_api.h"
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
            Counters& counters);
  ClSession(const ClSession&) = delete;
  ClSession& operator=(const ClSession&) = delete;

  const ClDevice& device() const { return device_; }
  MemoryKind memory_kind() const { return memory_.kind(); }

  void* Alloc(size_t bytes, size_t alignment);

  /*! \brief Give memory back; what queued kernels still use lives until they are done. */
  void Free(void* data);

  /*!
   * \brief Until every kernel launched so far is done and the host may read what they wrote.
   *
   * Costs one atomic load when nothing is pending.
   */
  void Wait();

  /*! \brief Compile `source`, or take it from the cache, and pick kernel `name`. */
  Kernel Build(const std::string& name, std::string_view source);

  /*!
   * \brief Put one launch into the queue.
   * \param bind Sets the kernel's arguments; runs under the session's lock.
   */
  template <typename Bind>  // void(UnifiedMemory&, const ClApi&)
  void Launch(const Kernel& kernel, const LaunchShape& shape, const Bind& bind) {
    const std::scoped_lock lock(mutex_);
    submitted_.fetch_add(1);  // first: binding alone may hand memory to the device
    bind(memory_, api_);
    Enqueue(kernel, shape);
  }

 private:
  // Work to release before memory that was given back gets out of hand.
  static constexpr size_t kMaxFreedBytes = size_t{256} << 20U;

  // Drivers may hold launches back until they are told to go on; telling costs a little.
  static constexpr uint64_t kLaunchesPerFlush = 8;

  void Enqueue(const Kernel& kernel, const LaunchShape& shape);
  void WaitLocked();

  const ClDevice device_;
  const ClApi& api_;
  Counters& counters_;
  ClHandle<cl_context> context_;
  ClHandle<cl_command_queue> queue_;
  ProgramCache cache_;

  // Guards memory_, the arguments of every kernel, and the order of mapping and launching. Taken by
  // every public function but Build(); Wait() keeps it while it waits only where memory must be
  // mapped afterwards, so launches from other threads go on otherwise.
  std::mutex mutex_;
  UnifiedMemory memory_;
  std::atomic<uint64_t> submitted_{0};  // launches so far; grows under mutex_
  std::atomic<uint64_t> completed_{0};  // launches known to be done
};

}  // namespace hetero_tvm::runtime::opencl

#endif  // HETERO_TVM_RUNTIME_OPENCL_SESSION_H_
