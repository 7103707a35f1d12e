/*!
 * \file watch.h
 * \brief Calls into drivers that never come back are noticed.
 */
#ifndef HETERO_TVM_RUNTIME_WATCH_H_
#define HETERO_TVM_RUNTIME_WATCH_H_

#include <atomic>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <mutex>

#include "settings.h"

namespace hetero_tvm::runtime {

/*! \brief What one thread is calling; read by the thread that watches. */
struct WatchSlot {
  std::atomic<const char*> call{nullptr};  // null: none of a driver's functions
  std::atomic<const char*> work{nullptr};  // what that is for, as "npu_region_0"
  std::atomic<uint64_t> serial{0};         // of the calls so far
  std::mutex mutex;                        // guards on_expiry; held while it runs
  std::function<void(const char* call)> on_expiry;
  // Of the thread that watches.
  uint64_t seen = 0;
  int looks = 0;
  bool told = false;
};

/*!
 * \brief Looks after the calls that threads of this process make into drivers.
 *
 * A thread that is inside a driver cannot be taken out of it. So where nobody said what else to do
 * (OnExpiry), the process says in one line which call does not come back and ends with exit code 4;
 * waiting on would only be quieter.
 */
class Watch {
 public:
  /*!
   * \brief How long a call may take, by the setting `device.limit_s`; zero: as long as it likes.
   *
   * Throws ValueError when the setting is no number.
   */
  static std::chrono::milliseconds Limit(const Settings& settings);

  /*! \brief Begin to watch, unless something does already, or the limit is zero. */
  static void Start(const Settings& settings);

  /*! \brief The calling thread's slot. */
  static WatchSlot& OfThisThread();

  /*!
   * \brief Write what every thread is calling, a line each; for a handler of a signal.
   *
   * Writes nothing where the list of threads is being changed.
   */
  static void Describe(int fd) noexcept;
};

/*! \brief The thread that made it is at `work` while it lives. */
class WorkGuard {
 public:
  /*! \param work Lives longer than this. */
  explicit WorkGuard(const char* work)
      : slot_(Watch::OfThisThread()),
        outer_(slot_.work.exchange(work, std::memory_order_relaxed)) {}
  WorkGuard(const WorkGuard&) = delete;
  WorkGuard& operator=(const WorkGuard&) = delete;
  ~WorkGuard() { slot_.work.store(outer_, std::memory_order_relaxed); }

 private:
  WatchSlot& slot_;
  const char* const outer_;
};

/*! \brief The thread that made it is in the driver's function `call` while it lives. */
class CallGuard {
 public:
  /*! \param call Lives as long as the process. */
  explicit CallGuard(const char* call)
      : slot_(Watch::OfThisThread()), outer_(slot_.call.load(std::memory_order_relaxed)) {
    slot_.serial.store(slot_.serial.load(std::memory_order_relaxed) + 1, std::memory_order_relaxed);
    slot_.call.store(call, std::memory_order_relaxed);
  }
  CallGuard(const CallGuard&) = delete;
  CallGuard& operator=(const CallGuard&) = delete;
  ~CallGuard() { slot_.call.store(outer_, std::memory_order_relaxed); }

 private:
  WatchSlot& slot_;
  const char* const outer_;
};

/*!
 * \brief While it lives, a call of this thread that does not come back in time runs `handler`, once
 * for each call and on another thread, and the process goes on.
 *
 * Once it is gone the handler does not run any more, and is not running.
 */
class OnExpiry {
 public:
  explicit OnExpiry(std::function<void(const char* call)> handler);
  OnExpiry(const OnExpiry&) = delete;
  OnExpiry& operator=(const OnExpiry&) = delete;
  ~OnExpiry();

 private:
  WatchSlot& slot_;
  std::function<void(const char* call)> outer_;
};

/*! \brief A driver's function; calls of it are watched. */
template <typename Signature>
class Watched;

template <typename Result, typename... Args>
class Watched<Result(Args...)> {
 public:
  using Pointer = Result (*)(Args...);

  void Set(Pointer function, const char* name) {
    function_ = function;
    name_ = name;
  }
  Result operator()(Args... args) const {
    const CallGuard guard(name_);
    return function_(args...);
  }
  Pointer Get() const { return function_; }
  bool operator==(std::nullptr_t) const { return function_ == nullptr; }
  bool operator!=(std::nullptr_t) const { return function_ != nullptr; }

 private:
  Pointer function_ = nullptr;
  const char* name_ = nullptr;
};

}  // namespace hetero_tvm::runtime

#endif  // HETERO_TVM_RUNTIME_WATCH_H_
