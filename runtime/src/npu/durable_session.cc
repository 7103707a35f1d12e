/*!
 * \file npu/durable_session.cc
 * \brief Second tries, and moving to the CPU.
 */
#include "durable_session.h"

#include <condition_variable>
#include <cstdio>
#include <optional>
#include <thread>
#include <utility>

#include "../check.h"
#include "../watch.h"

namespace hetero_tvm::runtime::npu {
namespace {

namespace ffi = tvm::ffi;

/*! \brief Only what a device does wrong may go better the next time. */
bool IsOfDevice(const ffi::Error& error) { return error.kind() == "DeviceFailure"; }

/*! \brief What a thread that makes a session and those who wait for it share. */
struct Making {
  std::mutex mutex;
  std::condition_variable changed;
  bool is_over = false;
  std::optional<ffi::Error> failure;
};

constexpr const char* kAdvice = "run `hetero-tvm doctor`, or build with --devices gpu";

}  // namespace

DurableSession::DurableSession(OrtEnvironment& environment, Counters& counters, NpuHealth& health,
                               const Region& region, const Region* substitute, Keep keep)
    : RegionSession(region),
      environment_(environment),
      counters_(counters),
      health_(health),
      substitute_(substitute),
      keep_(std::move(keep)) {}

bool DurableSession::IsLimited() const {
#if defined(__x86_64__)
  return region_.provider != "qnn" || IsMoved();
#else
  return true;
#endif
}

bool DurableSession::UsesSubstitute() const {
  return substitute_ != nullptr && (IsMoved() || health_.is_lost.load(std::memory_order_acquire));
}

std::shared_ptr<RegionSession> DurableSession::Ready() {
  const auto ready = [&] {
    const std::scoped_lock lock(mutex_);
    return session_;
  };
  if (auto session = ready()) return session;
  const std::scoped_lock opening(opening_);
  if (auto session = ready()) return session;
  std::shared_ptr<RegionSession> made;
  const bool must_ask = region_.provider == "qnn" && !has_run_.load(std::memory_order_acquire);
  if (!UsesSubstitute()) {
    try {
      made = Open(region_);
    } catch (const ffi::Error& first) {
      if (!IsOfDevice(first)) throw;
      try {
        counters_.npu_retries.Add();
        if (!UsesSubstitute()) {
          made = Open(region_);
        } else if (must_ask) {
          throw ffi::Error(first);
        }
      } catch (const ffi::Error& second) {
        if (!IsOfDevice(second) || substitute_ == nullptr || must_ask) throw;
        Move(second.message());
      }
    }
  }
  if (made == nullptr) {
    Move("the NPU is lost");
    made = Open(*substitute_);
    TellMoved();
  }
  const std::scoped_lock lock(mutex_);
  session_ = made;
  return made;
}

std::shared_ptr<RegionSession> DurableSession::Open(const Region& region) {
  auto session = std::make_shared<OrtRegionSession>(environment_, region);
  const std::chrono::milliseconds limit = Watch::Limit(environment_.settings());
  const bool is_limited = limit.count() != 0 && (&region != &region_ || IsLimited());
  if (!is_limited) {
    const OnExpiry nothing([](const char*) {});
    session->Prepare();
    return session;
  }
  // In a thread of its own, which can be left behind. It keeps what it works on.
  auto making = std::make_shared<Making>();
  std::thread([making, session, kept = keep_()]() mutable {
    const OnExpiry nothing([](const char*) {});
    std::optional<ffi::Error> failure;
    try {
      session->Prepare();
    } catch (const ffi::Error& error) {
      failure = error;
    } catch (const std::exception& error) {
      failure = ffi::Error("DeviceFailure", error.what(), "");
    }
    // First: whoever waits may be the last who holds what they belong to.
    session.reset();
    kept.reset();
    {
      const std::scoped_lock lock(making->mutex);
      making->failure = std::move(failure);
      making->is_over = true;
    }
    making->changed.notify_all();
  }).detach();
  std::unique_lock lock(making->mutex);
  if (!making->changed.wait_for(lock, limit, [&] { return making->is_over; })) {
    health_.is_lost.store(true, std::memory_order_release);
    counters_.npu_hangs.Add();
    TVM_FFI_THROW(DeviceFailure) << "NPU region " << region_.symbol
                                 << ": its session was not made within "
                                 << std::chrono::duration<double>(limit).count()
                                 << " s (CreateSessionFromArray; HETERO_DEVICE_LIMIT_S)";
  }
  // Moved: the thread may be the last who holds `making`, and has nothing more to do with the
  // error.
  if (making->failure.has_value()) throw ffi::Error(*std::move(making->failure));
  return session;
}

void DurableSession::Move(const std::string& why) {
  if (moved_.exchange(true, std::memory_order_acq_rel)) return;
  const std::scoped_lock lock(mutex_);
  why_moved_ = why;
}

void DurableSession::Replace() {
  moved_.store(true, std::memory_order_release);
  counters_.npu_moved.Add();
  const std::scoped_lock lock(mutex_);
  session_ = nullptr;
}

void DurableSession::TellMoved() {
  std::string why;
  {
    const std::scoped_lock lock(mutex_);
    why = std::exchange(why_moved_, "");
  }
  if (why.empty()) return;
  counters_.npu_moved.Add();
  std::fprintf(stderr,
               "hetero_tvm: the NPU failed, and the work of its region %s is done on the CPU from "
               "now on: %s\n",
               region_.symbol.c_str(), why.c_str());
  std::fflush(stderr);
}

void DurableSession::Drop(const std::shared_ptr<RegionSession>& session) {
  const std::scoped_lock lock(mutex_);
  if (session_ == session) session_ = nullptr;
}

void DurableSession::Abandon(const std::string& why) {
  health_.is_lost.store(true, std::memory_order_release);
  counters_.npu_hangs.Add();
  if (substitute_ != nullptr) Move(why);
  const std::scoped_lock lock(mutex_);
  session_ = nullptr;  // the stuck thread has it, and keeps it
  ++abandoned_;
}

void DurableSession::Run(const std::vector<const DLTensor*>& tensors) {
  const auto abandoned = [&] {
    const std::scoped_lock lock(mutex_);
    return abandoned_;
  };
  const uint64_t before = abandoned();
  for (int failures = 0;; ++failures) {
    const std::shared_ptr<RegionSession> session = Ready();
    try {
      session->Run(tensors);
      has_run_.store(true, std::memory_order_release);
      return;
    } catch (const ffi::Error& error) {
      // Who comes back after all must not touch what others run by now.
      if (!IsOfDevice(error) || abandoned() != before) throw;
      const bool was_moved = IsMoved();
      Drop(session);
      // Once more as it was; then on the CPU, and there once more.
      if (failures == 1 && !was_moved && substitute_ != nullptr) {
        Move(error.message());
      } else if (failures != 0) {
        throw ffi::Error("DeviceFailure", error.message() + "; " + kAdvice, error.backtrace());
      }
      counters_.npu_retries.Add();
    }
  }
}

}  // namespace hetero_tvm::runtime::npu
