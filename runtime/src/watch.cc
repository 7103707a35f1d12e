/*!
 * \file watch.cc
 * \brief The thread that looks whether calls come back.
 */
#include "watch.h"

#include <tvm/ffi/error.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "check.h"

namespace hetero_tvm::runtime {
namespace {

// Longer than any call that comes back was seen to take: the slowest are sessions of large regions
// and finishing a queue of a language model's prompt on a loaded host, well below a minute.
constexpr std::chrono::seconds kDefaultLimit{300};
constexpr int kLooks = 8;  // in the time that a call may take
constexpr int kExitCode = 4;

struct Slots {
  std::mutex mutex;
  std::vector<std::shared_ptr<WatchSlot>> all;
};

/*! \brief Never destroyed: threads may end after main(). */
Slots& AllSlots() {
  static auto* slots = new Slots;
  return *slots;
}

/*! \brief Puts a thread's slot on the list, and takes it off when the thread ends. */
struct Registration {
  std::shared_ptr<WatchSlot> slot = std::make_shared<WatchSlot>();

  Registration() {
    const std::scoped_lock lock(AllSlots().mutex);
    AllSlots().all.push_back(slot);
  }
  Registration(const Registration&) = delete;
  Registration& operator=(const Registration&) = delete;
  ~Registration() {
    const std::scoped_lock lock(AllSlots().mutex);
    std::vector<std::shared_ptr<WatchSlot>>& all = AllSlots().all;
    for (auto& known : all) {
      if (known != slot) continue;
      known = all.back();
      all.pop_back();
      return;
    }
  }
};

void Expired(WatchSlot& slot, const char* call, std::chrono::milliseconds limit) {
  const std::scoped_lock lock(slot.mutex);
  // It may have come back in the meantime; a new call has its own time.
  if (slot.serial.load(std::memory_order_relaxed) != slot.seen ||
      slot.call.load(std::memory_order_relaxed) == nullptr) {
    return;
  }
  slot.told = true;
  if (slot.on_expiry) {
    slot.on_expiry(call);
    return;
  }
  std::fprintf(stderr,
               "hetero_tvm: %s has not come back for %g s: the device or its driver hangs, so this "
               "process ends. Start it again; if it happens again, restart the machine or run "
               "`hetero-tvm doctor`. HETERO_DEVICE_LIMIT_S sets the limit, 0 none\n",
               call, std::chrono::duration<double>(limit).count());
  std::fflush(stderr);
  _exit(kExitCode);
}

void LookAt(WatchSlot& slot, std::chrono::milliseconds limit) {
  const char* call = slot.call.load(std::memory_order_relaxed);
  const uint64_t serial = slot.serial.load(std::memory_order_relaxed);
  if (call == nullptr || serial != slot.seen) {
    slot.seen = serial;
    slot.looks = 0;
    slot.told = false;
    return;
  }
  if (!slot.told && ++slot.looks >= kLooks) Expired(slot, call, limit);
}

void Look(std::chrono::milliseconds limit) {
  const auto pause = std::max(limit / kLooks, std::chrono::milliseconds(1));
  while (true) {
    std::this_thread::sleep_for(pause);
    std::vector<std::shared_ptr<WatchSlot>> slots;
    {
      const std::scoped_lock lock(AllSlots().mutex);
      slots = AllSlots().all;
    }
    for (const std::shared_ptr<WatchSlot>& slot : slots) LookAt(*slot, limit);
  }
}

}  // namespace

std::chrono::milliseconds Watch::Limit(const Settings& settings) {
  const std::string text = settings.Get("device.limit_s");
  if (text.empty()) return kDefaultLimit;
  char* end = nullptr;
  const double seconds = std::strtod(text.c_str(), &end);
  // A day is for ever, and keeps the arithmetic away from overflow; NaN is in no range.
  HETERO_CHECK(*end == '\0' && seconds >= 0 && seconds <= 86400, ValueError)
      << "HETERO_DEVICE_LIMIT_S is '" << text << "': give seconds, at most 86400, 0 for no limit";
  return std::chrono::milliseconds(static_cast<int64_t>(seconds * 1e3));
}

void Watch::Start(const Settings& settings) {
  static std::once_flag once;
  const std::chrono::milliseconds limit = Limit(settings);
  if (limit.count() == 0) return;
  // It lives as long as the process; a forked one has none, nor any other thread of ours.
  std::call_once(once, [limit] { std::thread(Look, limit).detach(); });
}

WatchSlot& Watch::OfThisThread() {
  thread_local Registration registration;
  return *registration.slot;
}

void Watch::Describe(int fd) noexcept {
  const std::unique_lock lock(AllSlots().mutex, std::try_to_lock);
  if (!lock.owns_lock()) return;
  const auto say = [fd](const char* text) {
    [[maybe_unused]] const ssize_t written = write(fd, text, std::strlen(text));
  };
  for (const std::shared_ptr<WatchSlot>& slot : AllSlots().all) {
    const char* call = slot->call.load(std::memory_order_relaxed);
    const char* work = slot->work.load(std::memory_order_relaxed);
    if (call == nullptr && work == nullptr) continue;
    say("a thread is in ");
    say(call != nullptr ? call : "no driver");
    if (work != nullptr) {
      say(", for ");
      say(work);
    }
    say("\n");
  }
}

OnExpiry::OnExpiry(std::function<void(const char*)> handler) : slot_(Watch::OfThisThread()) {
  const std::scoped_lock lock(slot_.mutex);
  outer_ = std::exchange(slot_.on_expiry, std::move(handler));
}

OnExpiry::~OnExpiry() {
  const std::scoped_lock lock(slot_.mutex);
  slot_.on_expiry = std::move(outer_);
}

}  // namespace hetero_tvm::runtime
