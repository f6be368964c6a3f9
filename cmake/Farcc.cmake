# Puts farcc in front of the compilers of a CMake build, without an edit of the project:
#
#   cmake -S . -B build -DCMAKE_PROJECT_TOP_LEVEL_INCLUDES=/path/to/Farcc.cmake     CMake 3.24 and later
#   cmake -S . -B build -DCMAKE_PROJECT_INCLUDE_BEFORE=/path/to/Farcc.cmake         CMake 3.15 and later
#
# Reads:   FARCC_LAUNCHER   path of the farcc program; else it is looked for beside this file, in ../bin, in the
#                           PATH, and in the target directory of the clone that this file lies in.
# Sets:    CMAKE_<LANG>_COMPILER_LAUNCHER for the languages that farcc knows, unless the user set it, and the global
#          property RULE_LAUNCH_LINK, for links and archives, unless it is set. -DFARCC_LINKS=OFF, or the same in the environment,
#          leaves that alone. RULE_LAUNCH_CUSTOM, for custom commands, and CMAKE_TEST_LAUNCHER (CMake 3.29), for tests, unless
#          they are set; -DFARCC_CUSTOM=OFF, or the same in the environment, leaves both alone.
# Writes:  .farcc-roots in the build directory: source and build directory, a line each, which are the workspace of
#          `[exec] paths = "shared"` and of the twin; .farcc-rule, what stands before custom commands.
#
# Where no farcc is found, the build goes on without it and a warning says so.

if(CMAKE_VERSION VERSION_LESS 3.15)
  message(WARNING "farcc: CMake ${CMAKE_VERSION} is too old, 3.15 is needed: the build goes on without farcc")
  return()
endif()

# A file that is included before each project() runs again for nested projects; the first time counts for all.
get_property(farcc_is_set_up GLOBAL PROPERTY FARCC_IS_SET_UP)
if(farcc_is_set_up)
  return()
endif()
set_property(GLOBAL PROPERTY FARCC_IS_SET_UP TRUE)

set(farcc_module_directory "${CMAKE_CURRENT_LIST_DIR}")

function(farcc_find_launcher result)
  set(launcher "${FARCC_LAUNCHER}")
  if(launcher AND NOT IS_ABSOLUTE "${launcher}")
    # CMake would take it as relative to each build directory in turn.
    get_filename_component(launcher "${launcher}" ABSOLUTE BASE_DIR "${CMAKE_BINARY_DIR}")
  endif()
  if(launcher AND NOT EXISTS "${launcher}")
    message(WARNING "farcc: FARCC_LAUNCHER names ${launcher}, which does not exist")
    set(launcher "")
  endif()
  if(NOT launcher)
    # Not find_program: a user's search-path settings for libraries and cross compiling must not apply, and
    # nothing is to be remembered in the cache after farcc has moved.
    set(directories "${farcc_module_directory}" "${farcc_module_directory}/../bin")
    string(REPLACE ":" ";" path "$ENV{PATH}")
    list(APPEND directories ${path})
    foreach(profile release debug)
      list(APPEND directories "${farcc_module_directory}/../target/${profile}")
    endforeach()
    foreach(directory IN LISTS directories)
      if(EXISTS "${directory}/farcc" AND NOT IS_DIRECTORY "${directory}/farcc")
        get_filename_component(launcher "${directory}/farcc" ABSOLUTE)
        break()
      endif()
    endforeach()
  endif()
  set(${result} "${launcher}" PARENT_SCOPE)
endfunction()

farcc_find_launcher(farcc_launcher)
if(NOT farcc_launcher)
  message(WARNING "farcc: no farcc program was found (set FARCC_LAUNCHER): the build goes on without it")
  return()
endif()

foreach(farcc_language C CXX OBJC OBJCXX)
  set(farcc_variable CMAKE_${farcc_language}_COMPILER_LAUNCHER)
  # The environment variable of the same name is CMake's own default, read after this file.
  set(farcc_users_launcher "${${farcc_variable}}")
  if(NOT farcc_users_launcher)
    set(farcc_users_launcher "$ENV{${farcc_variable}}")
  endif()
  if(NOT farcc_users_launcher)
    set(${farcc_variable} "${farcc_launcher}")
  elseif(NOT farcc_users_launcher MATCHES "(^|[/;])farcc($|;)")
    message(WARNING "farcc: ${farcc_variable} is set to ${farcc_users_launcher}: farcc is not used for it")
  endif()
endforeach()
message(STATUS "farcc: compiles go through ${farcc_launcher}")

set(farcc_links ON)
if(DEFINED FARCC_LINKS)
  set(farcc_links "${FARCC_LINKS}")
elseif(DEFINED ENV{FARCC_LINKS})
  set(farcc_links "$ENV{FARCC_LINKS}")
endif()
if(farcc_links)
  get_property(farcc_users_launcher GLOBAL PROPERTY RULE_LAUNCH_LINK)
  if(NOT farcc_users_launcher)
    # A text for the shell.
    set_property(GLOBAL PROPERTY RULE_LAUNCH_LINK "\"${farcc_launcher}\"")
    message(STATUS "farcc: links and archives go through ${farcc_launcher}")
  endif()
endif()

# CMake puts the text of RULE_LAUNCH_CUSTOM before each COMMAND, which is a text for the shell as well: it may begin with a
# builtin that is to change that shell (`cd there && …`), or with an assignment. So the text is a function, which knows both.
# Reserved words (`if …; then …`) the shell does not know behind any other word: with one of these there is no launcher.
function(farcc_write_rule launcher)
  string(REPLACE "'" "'\\''" launcher "${launcher}")
  string(CONFIGURE [=[
# Written by Farcc.cmake: each custom command reads this and is given to the function, in the shell that it was meant for.
farcc_rule() {
  case $1 in
    . | : | '[' | alias | bg | break | cd | command | continue | echo | eval | exec | exit | export | false | fg | getopts | \
      hash | jobs | kill | local | printf | pwd | read | readonly | return | set | shift | source | test | times | trap | \
      true | type | ulimit | umask | unalias | unset | wait)
      "$@"
      ;;
    '!')
      shift
      farcc_rule "$@" && return 1
      return 0
      ;;
    time)
      shift
      time "$@"
      ;;
    @* | +* | -*)
      # As Make, which takes them for signs to itself.
      farcc_sign=$1
      shift
      [ -z "${farcc_sign#?}" ] || set -- "${farcc_sign#?}" "$@"
      case $farcc_sign in
        -*) farcc_rule "$@" || : ;;
        *) farcc_rule "$@" ;;
      esac
      ;;
    [A-Za-z_]*=*)
      case ${1%%=*} in
        *[!A-Za-z0-9_]*) '@launcher@' "$@" ;;
        *)
          if [ $# -eq 1 ]; then
            eval "${1%%=*}=\${1#*=}"
          else
            (
              export "$1"
              shift
              farcc_rule "$@"
            )
          fi
          ;;
      esac
      ;;
    *) '@launcher@' "$@" ;;
  esac
}
]=] rule @ONLY)
  file(GENERATE OUTPUT "${CMAKE_BINARY_DIR}/.farcc-rule" CONTENT "${rule}")
endfunction()

# The first of these files in which a COMMAND begins with a reserved word.
function(farcc_find_reserved_word result)
  set(${result} "" PARENT_SCOPE)
  foreach(file IN LISTS ARGN)
    if(EXISTS "${file}" AND NOT IS_DIRECTORY "${file}")
      file(READ "${file}" text)
      if(text MATCHES "COMMAND[ \t\r\n]+\"?(if|for|while|until|case|{|\\()[ \t\r\n\"]")
        set(${result} "${file}" PARENT_SCOPE)
        return()
      endif()
    endif()
  endforeach()
endfunction()

# Takes the launcher back where it would break a command; called when the whole project is configured, if that can be had.
function(farcc_check_custom_commands)
  if(CMAKE_VERSION VERSION_LESS 3.19)
    cmake_policy(SET CMP0009 NEW)
    file(GLOB_RECURSE files "${CMAKE_SOURCE_DIR}/CMakeLists.txt" "${CMAKE_SOURCE_DIR}/*.cmake")
  else()
    set(files "")
    set(places "")
    set(open "${CMAKE_SOURCE_DIR}")
    while(open)
      list(GET open 0 directory)
      list(REMOVE_AT open 0)
      get_property(below DIRECTORY "${directory}" PROPERTY SUBDIRECTORIES)
      get_directory_property(modules DIRECTORY "${directory}" DEFINITION CMAKE_MODULE_PATH)
      list(APPEND open ${below})
      list(APPEND places "${directory}" "${directory}/cmake" ${modules})
    endwhile()
    list(REMOVE_DUPLICATES places)
    foreach(place IN LISTS places)
      file(GLOB found "${place}/CMakeLists.txt" "${place}/*.cmake")
      list(APPEND files ${found})
    endforeach()
  endif()
  farcc_find_reserved_word(found ${files})
  if(found)
    set_property(GLOBAL PROPERTY RULE_LAUNCH_CUSTOM "")
    message(STATUS "farcc: custom commands are left alone: one in ${found} begins with a reserved word of the shell")
  else()
    get_property(launcher GLOBAL PROPERTY FARCC_CUSTOM_LAUNCHER)
    message(STATUS "farcc: custom commands go through ${launcher}")
  endif()
endfunction()

set(farcc_custom ON)
if(DEFINED FARCC_CUSTOM)
  set(farcc_custom "${FARCC_CUSTOM}")
elseif(DEFINED ENV{FARCC_CUSTOM})
  set(farcc_custom "$ENV{FARCC_CUSTOM}")
endif()
if(farcc_custom AND CMAKE_GENERATOR MATCHES "Ninja|Unix Makefiles")
  get_property(farcc_users_launcher GLOBAL PROPERTY RULE_LAUNCH_CUSTOM)
  if(NOT farcc_users_launcher)
    farcc_write_rule("${farcc_launcher}")
    set_property(GLOBAL PROPERTY RULE_LAUNCH_CUSTOM ". \"${CMAKE_BINARY_DIR}/.farcc-rule\" && farcc_rule")
    set_property(GLOBAL PROPERTY FARCC_CUSTOM_LAUNCHER "${farcc_launcher}")
    if(CMAKE_VERSION VERSION_LESS 3.19)
      farcc_check_custom_commands()
    else()
      cmake_language(DEFER DIRECTORY "${CMAKE_SOURCE_DIR}" CALL farcc_check_custom_commands)
    endif()
  endif()
  # Before 3.29 nobody reads it. One list of words, as those of compilers.
  if(NOT CMAKE_TEST_LAUNCHER AND "$ENV{CMAKE_TEST_LAUNCHER}" STREQUAL "")
    set(CMAKE_TEST_LAUNCHER "${farcc_launcher}")
  endif()
endif()

# Written only when it changes.
file(GENERATE OUTPUT "${CMAKE_BINARY_DIR}/.farcc-roots" CONTENT "${CMAKE_SOURCE_DIR}\n${CMAKE_BINARY_DIR}\n")

foreach(farcc_name custom links language variable users_launcher launcher module_directory is_set_up name)
  unset(farcc_${farcc_name})
endforeach()
