plugins {
    id("com.android.application")
}

android {
    namespace = "org.hetero_tvm.sample"
    compileSdk = 35
    ndkVersion = "27.2.12479018"  // r27, the first whose own libraries are aligned to 16 KB pages

    defaultConfig {
        applicationId = "org.hetero_tvm.sample"
        minSdk = 29  // what `build --os android-arm64` links for
        targetSdk = 35
        versionCode = 1
        versionName = "1.0"
        ndk {
            abiFilters += "arm64-v8a"
        }
        externalNativeBuild {
            cmake {
                // The folder of this checkout that has the C API's header.
                arguments += "-DHETERO_TVM_INCLUDE_DIR=${rootDir}/../../runtime/include"
                arguments += "-DHETERO_TVM_LIBRARIES_DIR=${projectDir}/src/main/jniLibs/arm64-v8a"
                // Devices with memory pages of 16 KB load nothing that is aligned to less.
                arguments += "-DANDROID_SUPPORT_FLEXIBLE_PAGE_SIZES=ON"
            }
        }
    }

    externalNativeBuild {
        cmake {
            path = file("src/main/cpp/CMakeLists.txt")
            version = "3.22.1"
        }
    }

    packaging {
        jniLibs {
            // Files, not parts of the APK: the artefact and the DSP's side of the NPU's libraries
            // are opened by path, in the folder that Android unpacks them to.
            useLegacyPackaging = true
            keepDebugSymbols += "**/*.so"  // an artefact ends with its description: not to be stripped
        }
    }

    compileOptions {
        sourceCompatibility = JavaVersion.VERSION_17
        targetCompatibility = JavaVersion.VERSION_17
    }
}
