/*!
 * \file device/program.cc
 * \brief The program that a deployment leaves on a device; it needs no Python there.
 *
 *   hetero_device [OPTION]… serve
 *   hetero_device [OPTION]… run ARTEFACT --input FILE.npy… [--repeat N] [--save FOLDER]
 *   hetero_device [OPTION]… generate ARTEFACT --ids 1,2,3 [--max-new-tokens N]
 *   hetero_device [OPTION]… devices
 *
 * `--set KEY=VALUE`: of the runtime, such as ort.library=/…/libonnxruntime.so. `--load LIBRARY`:
 * one that registers functions with TVM, such as libtvm_runtime_extra.so with its sorts. Exit codes
 * as those of hetero-tvm: 0 fine, 2 bad input, 3 something is missing here, 4 a device failed.
 */
#include <dlfcn.h>
#include <tvm/ffi/container/map.h>
#include <tvm/ffi/error.h>
#include <tvm/ffi/extra/json.h>
#include <tvm/ffi/function.h>

#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <exception>
#include <sstream>
#include <string>
#include <vector>

#include "../src/imported.h"
#include "generate.h"
#include "run.h"
#include "serve.h"

namespace {

namespace ffi = tvm::ffi;
namespace device = hetero_tvm::device;
namespace runtime = hetero_tvm::runtime;

constexpr int kBadInput = 2;
constexpr int kEnvironment = 3;
constexpr int kDevice = 4;

[[noreturn]] void Refuse(const std::string& why) { TVM_FFI_THROW(ValueError) << why; }

/*! \brief The word after the flag at `*at`, which moves on to it. */
std::string Value(const std::vector<std::string>& words, size_t* at) {
  if (*at + 1 >= words.size()) Refuse(words[*at] + " needs a value");
  return words[++*at];
}

void Set(const std::string& pair) {
  const size_t equals = pair.find('=');
  if (equals == std::string::npos) Refuse("--set " + pair + ": write KEY=VALUE");
  runtime::Imported("hetero_tvm.setting_set")(pair.substr(0, equals), pair.substr(equals + 1));
}

void Load(const std::string& library) {
  if (dlopen(library.c_str(), RTLD_NOW | RTLD_GLOBAL) == nullptr) {
    TVM_FFI_THROW(EnvironmentProblem) << "cannot load " << library << ": " << dlerror();
  }
}

int64_t Number(const std::string& flag, const std::string& text) {
  char* end = nullptr;
  errno = 0;
  const int64_t number = std::strtol(text.c_str(), &end, 10);
  if (text.empty() || *end != '\0' || errno != 0 || number < 0) Refuse(flag + " " + text);
  return number;
}

device::RunOptions ReadRun(const std::vector<std::string>& words, size_t at) {
  device::RunOptions options;
  for (; at < words.size(); ++at) {
    if (words[at] == "--input") {
      options.inputs.push_back(Value(words, &at));
    } else if (words[at] == "--save") {
      options.save = Value(words, &at);
    } else if (words[at] == "--repeat") {
      options.repeat = Number("--repeat", Value(words, &at));
    } else if (options.artefact.empty() && words[at].rfind("--", 0) != 0) {
      options.artefact = words[at];
    } else {
      Refuse("run: unknown " + words[at]);
    }
  }
  if (options.artefact.empty()) Refuse("run ARTEFACT --input FILE… [--repeat N] [--save FOLDER]");
  return options;
}

std::vector<int64_t> Numbers(const std::string& flag, const std::string& text) {
  std::vector<int64_t> numbers;
  std::istringstream words(text);
  for (std::string word; std::getline(words, word, ',');) numbers.push_back(Number(flag, word));
  return numbers;
}

device::GenerateOptions ReadGenerate(const std::vector<std::string>& words, size_t at) {
  device::GenerateOptions options;
  for (; at < words.size(); ++at) {
    if (words[at] == "--ids") {
      options.ids = Numbers("--ids", Value(words, &at));
    } else if (words[at] == "--max-new-tokens") {
      options.max_new_tokens = Number("--max-new-tokens", Value(words, &at));
    } else if (options.artefact.empty() && words[at].rfind("--", 0) != 0) {
      options.artefact = words[at];
    } else {
      Refuse("generate: unknown " + words[at]);
    }
  }
  if (options.artefact.empty() || options.ids.empty()) {
    Refuse("generate ARTEFACT --ids 1,2,3 [--max-new-tokens N]");
  }
  return options;
}

void Main(const std::vector<std::string>& words) {
  for (size_t at = 0; at < words.size(); ++at) {
    if (words[at] == "--set") {
      Set(Value(words, &at));
    } else if (words[at] == "--load") {
      Load(Value(words, &at));
    } else if (words[at] == "serve") {
      return device::Serve();
    } else if (words[at] == "run") {
      return device::Run(ReadRun(words, at + 1));
    } else if (words[at] == "generate") {
      return device::Generate(ReadGenerate(words, at + 1));
    } else if (words[at] == "devices") {
      const auto devices = runtime::Imported("hetero_tvm.opencl_devices")();
      std::printf("%s\n", ffi::json::Stringify(devices).c_str());
      return;
    } else {
      Refuse("unknown " + words[at] + "; there are: serve, run, generate, devices");
    }
  }
  Refuse("say what to do: serve, run, generate or devices");
}

int CodeOf(const std::string& kind) {
  if (kind == "ValueError" || kind == "TypeError") return kBadInput;
  return kind == "EnvironmentProblem" ? kEnvironment : kDevice;
}

}  // namespace

/*! \brief What main.c calls. */
extern "C" __attribute__((visibility("default"))) int hetero_device_main(int count,
                                                                         char** arguments) {
  try {
    Main({arguments + 1, arguments + count});
    return 0;
  } catch (const ffi::Error& error) {
    std::fprintf(stderr, "hetero_device: error: %s\n", error.message().c_str());
    return CodeOf(error.kind());
  } catch (const std::exception& error) {
    std::fprintf(stderr, "hetero_device: error: %s\n", error.what());
    return kDevice;
  }
}
