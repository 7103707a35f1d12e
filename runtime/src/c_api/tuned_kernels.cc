/*!
 * \file c_api/tuned_kernels.cc
 * \brief Running kernels once, and what is remembered of them, as first_load.py has it.
 */
#include "tuned_kernels.h"

#include <fcntl.h>
#include <sys/file.h>
#include <tvm/ffi/container/shape.h>
#include <tvm/ffi/container/tensor.h>
#include <tvm/ffi/extra/json.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <mutex>
#include <optional>
#include <set>
#include <utility>

#include "../border.h"
#include "../check.h"
#include "../imported.h"
#include "../untrusted.h"
#include "sha256.h"

namespace hetero_tvm::runtime {
namespace {

namespace ffi = tvm::ffi;
namespace fs = std::filesystem;

constexpr size_t kNameDigits = 32;
constexpr std::streamsize kLongestVerdict = 1 << 16;
constexpr const char* kEnded = "its process ended while it was checked";

/*! \brief A device and its driver. */
struct Here {
  std::string device;
  std::string driver;
};

/*! \brief One process at a time checks; else the mark of one would be a verdict to another. */
class Lock {
 public:
  explicit Lock(const fs::path& folder) {
    if (folder.empty()) return;
    std::error_code error;
    fs::create_directories(folder, error);
    file_ = open((folder / "lock").c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    if (file_ >= 0) flock(file_, LOCK_EX);
  }
  Lock(const Lock&) = delete;
  Lock& operator=(const Lock&) = delete;
  ~Lock() {
    if (file_ >= 0) close(file_);
  }

 private:
  int file_ = -1;
};

fs::path FileOf(const fs::path& folder, const TunedKernel& kernel, const Here& here) {
  const std::string identity =
      kernel.scheduled + "\n" + kernel.kernel + "\n" + here.device + "\n" + here.driver;
  Sha256 digest;
  digest.Add(identity.data(), identity.size());
  return folder / (digest.Finish().substr(0, kNameDigits) + ".json");
}

/*! \brief Why a kernel is wrong here, empty where it is right; none where nobody looked. */
std::optional<std::string> Remembered(const fs::path& path) {
  std::ifstream file(path, std::ios::binary);
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

/*! \brief Write a verdict; what cannot be written costs the same check at the next load. */
void Remember(const fs::path& path, const TunedKernel& kernel, const Here& here,
              const std::string& reason) {
  ffi::json::Object about;
  about.Set(ffi::String("kernel"), ffi::String(kernel.function));
  about.Set(ffi::String("device"), ffi::String(here.device));
  about.Set(ffi::String("driver"), ffi::String(here.driver));
  about.Set(ffi::String("reason"), ffi::String(reason));
  const std::string text(ffi::json::Stringify(about));
  const fs::path beside = path.string() + "." + std::to_string(getpid());
  std::error_code error;
  {
    std::ofstream file(beside, std::ios::binary | std::ios::trunc);
    file << text;
    file.close();
    if (!file) {
      fs::remove(beside, error);
      return;
    }
  }
  fs::rename(beside, path, error);
}

/*! \brief Whether this is the first time in this process that `path` is told of. */
bool IsNews(const std::string& path) {
  static std::mutex mutex;
  static auto* told = new std::set<std::string>;  // other threads may outlive main()
  const std::scoped_lock lock(mutex);
  return told->insert(path).second;
}

void Refuse(const std::string& path, const TunedKernel& kernel, const Here& here,
            const std::string& why, const fs::path& file) {
  const std::string again = why == kEnded ? "; remove " + file.string() + " to try it again" : "";
  TVM_FFI_THROW(DeviceFailure) << path << ": the tuned kernel " << kernel.function << " fails on "
                               << here.device << " with driver " << here.driver << " (" << why
                               << again << "); it was proven on " << kernel.device << " with "
                               << kernel.driver << ". Build it without tuned kernels: no --db";
}

/*! \brief Run a kernel whose verdict will lie at `file`; empty: nowhere. */
std::string Checked(const fs::path& file, const ffi::Module& code, const TunedKernel& kernel,
                    const Here& here) {
  if (file.empty()) return TunedKernelError(code, kernel.function, kernel.proof);
  Remember(file, kernel, here, kEnded);
  try {
    std::string reason = TunedKernelError(code, kernel.function, kernel.proof);
    Remember(file, kernel, here, reason);
    return reason;
  } catch (...) {  // no fault of the kernel
    std::error_code error;
    fs::remove(file, error);
    throw;
  }
}

/*! \brief The last line of an error, which says what went wrong. */
std::string LastLine(const std::string& text) {
  constexpr size_t kMost = 300;
  const size_t end = text.find_last_not_of(" \n");
  if (end == text.npos) return "no reason";
  const size_t before = text.rfind('\n', end);
  const size_t begin = before == text.npos ? 0 : before + 1;
  return text.substr(begin, std::min(end + 1 - begin, kMost));
}

}  // namespace

std::string TunedKernelError(const ffi::Module& code, const std::string& function,
                             const KernelProof& proof) {
  constexpr DLDevice kGpu{kDLOpenCL, 0};
  const ffi::Function kernel = FunctionOf(code, function);
  const ffi::Function alloc = Imported("runtime.TVMTensorAllocWithScope");
  const ffi::Function sync = Imported("hetero_tvm.sync");
  std::vector<ffi::Any> tensors;
  tensors.reserve(proof.parameters.size());
  for (const KernelParameter& parameter : proof.parameters) {
    tensors.push_back(alloc(ffi::Shape(parameter.shape.begin(), parameter.shape.end()),
                            parameter.dtype, kGpu, nullptr));
  }
  const std::vector<ffi::AnyView> arguments(tensors.begin(), tensors.end());
  for (const KernelRun& run : proof.runs) {
    for (size_t place = 0; place < tensors.size(); ++place) {
      std::string bytes = KernelMemory(proof, run, place);
      Imported("runtime.TVMTensorCopyFromBytes")(tensors[place].cast<ffi::Tensor>(),
                                                 static_cast<void*>(bytes.data()),
                                                 static_cast<int64_t>(bytes.size()));
    }
    try {
      ffi::Any nothing;
      kernel.CallPacked(arguments.data(), static_cast<int32_t>(arguments.size()), &nothing);
      sync();
    } catch (const ffi::Error& error) {
      return "error: " + LastLine(error.message());
    }
    for (const auto& [place, wanted] : run.wanted) {
      std::string got(proof.parameters[place].bytes, '\0');
      Imported("runtime.TVMTensorCopyToBytes")(tensors[place].cast<ffi::Tensor>(),
                                               static_cast<void*>(got.data()),
                                               static_cast<int64_t>(got.size()));
      std::string reason = KernelError(proof, run, place, got);
      if (!reason.empty()) return reason;
    }
  }
  return "";
}

void CheckTuned(const std::string& path, const std::vector<TunedKernel>& kernels,
                const ffi::Module& code, const std::string& device, const std::string& driver,
                const Settings& settings) {
  const std::string asked = settings.Get("kernels.unproven");
  HETERO_CHECK(asked.empty() || asked == "tell" || asked == "refuse", ValueError)
      << "HETERO_UNPROVEN_KERNELS is '" << asked << "': give tell or refuse";
  const Here here{device, driver};
  std::vector<const TunedKernel*> elsewhere;
  for (const TunedKernel& kernel : kernels) {
    if (kernel.device != device || kernel.driver != driver) elsewhere.push_back(&kernel);
  }
  if (elsewhere.empty()) return;
  const std::string cache = settings.CacheDirectory();
  const fs::path folder = cache.empty() ? fs::path() : fs::path(cache) / "checked";
  const auto file_of = [&](const TunedKernel& kernel) {
    return folder.empty() ? fs::path() : FileOf(folder, kernel, here);
  };
  const Lock lock(folder);
  std::vector<const TunedKernel*> fresh;
  std::vector<const TunedKernel*> unproven;
  for (const TunedKernel* kernel : elsewhere) {
    const auto why = Remembered(file_of(*kernel));
    if (!why.has_value()) {
      (kernel->proof.runs.empty() ? unproven : fresh).push_back(kernel);
    } else if (!why->empty()) {
      Refuse(path, *kernel, here, *why, file_of(*kernel));
    }
  }
  if (!fresh.empty()) {
    std::fprintf(stderr,
                 "hetero_tvm: %s: %zu tuned kernels are checked on %s with driver %s, which is new "
                 "to them; once\n",
                 path.c_str(), fresh.size(), device.c_str(), driver.c_str());
    std::fflush(stderr);
  }
  for (const TunedKernel* kernel : fresh) {
    const fs::path file = file_of(*kernel);
    const std::string why = Checked(file, code, *kernel, here);
    if (!why.empty()) Refuse(path, *kernel, here, why, file);
  }
  if (unproven.empty()) return;
  const TunedKernel& first = *unproven.front();
  const std::string what =
      path + ": " + std::to_string(unproven.size()) + " tuned kernels, such as " + first.function +
      ", were proven on " + first.device + " with driver " + first.driver + ", not on " + device +
      " with " + driver +
      "; nothing in it says what they have to give: build it again, or without --db";
  HETERO_CHECK(asked != "refuse", DeviceFailure) << what << " (HETERO_UNPROVEN_KERNELS=refuse)";
  if (!IsNews(path)) return;
  std::fprintf(stderr, "hetero_tvm: %s\n", what.c_str());
  std::fflush(stderr);
}

// For hetero_tvm/kernel_check.py, a process that may crash.
TVM_FFI_STATIC_INIT_BLOCK() {
  GlobalNames().Typed("hetero_tvm.kernel_error", [](const ffi::Module& code,
                                                    const ffi::String& function,
                                                    const ffi::String& proof) {
    const auto object = ParseDescription(proof, "a tuned kernel's proof");
    return ffi::String(TunedKernelError(code, std::string(function), KernelProof::Read(object)));
  });
}

}  // namespace hetero_tvm::runtime
