/*!
 * \file c_api/tuned_kernels.cc
 * \brief Checking tuned kernels, and the verdicts that first_load.py reads and writes too.
 */
#include "tuned_kernels.h"

#include <tvm/ffi/extra/json.h>
#include <unistd.h>

#include <cstdio>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <mutex>
#include <optional>
#include <set>
#include <utility>

#include "../check.h"
#include "sha256.h"

namespace hetero_tvm::runtime {
namespace {

namespace ffi = tvm::ffi;
namespace fs = std::filesystem;

constexpr size_t kNameDigits = 32;
constexpr std::streamsize kLongestVerdict = 1 << 16;

constexpr char kEnded[] = "its process ended while it was checked";

/*! \brief The device and driver that kernels are to run on, and what is known of them there. */
class Verdicts {
 public:
  Verdicts(std::string device, std::string driver, const std::string& cache)
      : device_(std::move(device)), driver_(std::move(driver)), cache_(cache) {}

  bool IsProven(const TunedKernel& kernel) const {
    return kernel.device == device_ && kernel.driver == driver_;
  }

  /*! \brief Why a kernel is wrong here, empty where it is right; none where nobody looked. */
  std::optional<std::string> Of(const TunedKernel& kernel) const {
    if (cache_.empty()) return std::nullopt;
    std::ifstream file(FileOf(kernel), std::ios::binary);
    if (!file) return std::nullopt;
    std::string text(static_cast<size_t>(kLongestVerdict), '\0');
    file.read(text.data(), kLongestVerdict);
    text.resize(static_cast<size_t>(file.gcount()));
    // What is damaged was never looked at.
    ffi::String problem;
    const ffi::json::Value value = ffi::json::Parse(text, &problem);
    const auto object = value.try_cast<ffi::json::Object>();
    if (!problem.empty() || !object.has_value()) return std::nullopt;
    const auto reason = object->find(ffi::String("reason"));
    if (reason == object->end()) return std::nullopt;
    const auto why = (*reason).second.try_cast<ffi::String>();
    if (!why.has_value()) return std::nullopt;
    return std::string(*why);
  }

  /*! \brief Remember it; a disk that is full or read-only costs the same check at the next load. */
  void Set(const TunedKernel& kernel, const std::string& reason) const {
    if (cache_.empty()) return;
    ffi::json::Object object;
    object.Set(ffi::String("kernel"), ffi::String(kernel.function));
    object.Set(ffi::String("device"), ffi::String(device_));
    object.Set(ffi::String("driver"), ffi::String(driver_));
    object.Set(ffi::String("reason"), ffi::String(reason));
    const fs::path path = FileOf(kernel);
    const fs::path beside = path.string() + "." + std::to_string(getpid());
    std::error_code error;
    fs::create_directories(path.parent_path(), error);
    std::ofstream file(beside, std::ios::binary);
    file << std::string(ffi::json::Stringify(object));
    file.close();
    if (file) fs::rename(beside, path, error);
    if (!file || error) fs::remove(beside, error);
  }

  /*! \brief Know nothing again. */
  void Forget(const TunedKernel& kernel) const {
    std::error_code error;
    if (!cache_.empty()) fs::remove(FileOf(kernel), error);
  }

 private:
  fs::path FileOf(const TunedKernel& kernel) const {
    const std::string identity =
        kernel.scheduled + "\n" + kernel.kernel + "\n" + device_ + "\n" + driver_;
    Sha256 digest;
    digest.Add(identity.data(), identity.size());
    return fs::path(cache_) / "checked" / (digest.Finish().substr(0, kNameDigits) + ".json");
  }

  std::string device_;
  std::string driver_;
  std::string cache_;
};

/*! \brief Run `kernel`; why it is wrong, empty where it is right, and remembered. */
std::string Checked(const ffi::Module& code, const TunedKernel& kernel, const Verdicts& verdicts) {
  verdicts.Set(kernel, kEnded);
  try {
    const std::string reason = kernel.values->Check(code, kernel.function);
    verdicts.Set(kernel, reason);
    return reason;
  } catch (...) {  // no memory, a lost device: nothing is known of the kernel
    verdicts.Forget(kernel);
    throw;
  }
}

void Tell(const std::string& line) {
  std::fprintf(stderr, "hetero_tvm: %s\n", line.c_str());
  std::fflush(stderr);
}

/*! \brief Whether this is the first time in this process that `path` is told of. */
bool IsNews(const std::string& path) {
  static std::mutex mutex;
  static auto* told = new std::set<std::string>;  // other threads may outlive main()
  const std::scoped_lock lock(mutex);
  return told->insert(path).second;
}

}  // namespace

void CheckTuned(const std::string& path, const ffi::Module& code,
                const std::vector<TunedKernel>& kernels, const std::string& device,
                const std::string& driver, const Settings& settings) {
  const std::string asked = settings.Get("kernels.unproven");
  HETERO_CHECK(asked.empty() || asked == "tell" || asked == "refuse", ValueError)
      << "HETERO_UNPROVEN_KERNELS is '" << asked << "': give tell or refuse";
  const Verdicts verdicts(device, driver, settings.CacheDirectory());
  const std::string here = device + " with driver " + driver;
  std::vector<const TunedKernel*> unproven;
  bool is_told = false;
  for (const TunedKernel& kernel : kernels) {
    if (verdicts.IsProven(kernel)) continue;
    std::optional<std::string> why = verdicts.Of(kernel);
    if (!why.has_value() && kernel.values.has_value()) {
      if (!is_told)
        Tell(path + ": tuned kernels are checked on " + here + ", which is new to them");
      is_told = true;
      why = Checked(code, kernel, verdicts);
    }
    if (!why.has_value()) {
      unproven.push_back(&kernel);
      continue;
    }
    HETERO_CHECK(why->empty(), DeviceFailure)
        << path << ": the tuned kernel " << kernel.function << " fails on " << here << " (" << *why
        << "); it was proven on " << kernel.device << " with " << kernel.driver
        << ". Build it without tuned kernels: no --db";
  }
  if (unproven.empty()) return;
  const TunedKernel& first = *unproven.front();
  const std::string what =
      path + ": " + std::to_string(unproven.size()) + " tuned kernels, such as " + first.function +
      ", were proven on " + first.device + " with driver " + first.driver + ", not on " + here +
      ", and the artefact does not say what they give; build it again, or without --db";
  HETERO_CHECK(asked != "refuse", DeviceFailure) << what << " (HETERO_UNPROVEN_KERNELS=refuse)";
  if (IsNews(path)) Tell(what);
}

}  // namespace hetero_tvm::runtime
